"""Why the embedded Kafka ended, in one line, from what it wrote."""

import re

PORT_TAKEN = "its port is taken: choose another by --port, or leave it out for any free one"
KNOWN = (
    ("No space left on device", "the disk is full: free some space, or put the data elsewhere by --data"),
    ("Address already in use", PORT_TAKEN),
    (
        "Failed to acquire lock on file",
        "another Kafka uses this data folder: end that one, or give another folder by --data",
    ),
    ("Could not reserve enough space for", "Java got no memory for its heap of 512 MB: free some"),
    ("OutOfMemoryError", "Java ran out of memory: free some, and report what it was doing"),
)
"""What Kafka or Java writes, and what to say of it; the first that occurs wins."""


def cause_in(written: str) -> str:
    r"""Return the cause and its fix if it is a known one, else the innermost exception or the last error told.

    >>> cause_in("java.net.BindException: Address already in use")
    'its port is taken: choose another by --port, or leave it out for any free one'
    >>> cause_in("java.lang.RuntimeException: no\nCaused by: a.b.OddException: bad magic\n\tat x")
    'OddException: bad magic (is the data folder damaged? move it away to start anew)'
    >>> cause_in("")
    'it ended without a word'
    """
    for marker, meaning in KNOWN:
        if marker in written:
            return meaning
    exceptions = re.findall(r"^(?:Caused by: |Exception in thread \S+ )?(?:[\w$]+\.)+([\w$]+(?:: .*)?)$", written, re.M)
    if exceptions:
        return f"{exceptions[-1]} (is the data folder damaged? move it away to start anew)"
    lines = [line for line in written.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b(ERROR|FATAL)\b", line)]
    return (errors or lines or ["it ended without a word"])[-1].strip()
