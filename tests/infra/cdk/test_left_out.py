"""Tests that need `make setup-cdk`: without it they are left out, and that is said where everybody looks."""

import subprocess
import sys

CODE = "import sys, pytest; sys.modules['aws_cdk'] = None; sys.exit(pytest.main(sys.argv[1:]))"  # as if not installed


def test_what_is_left_out_without_the_cdk_is_said_at_the_end():
    arguments = ("-q", "-n", "0", "tests/infra/cdk/test_stacks.py", "-k", "no_check or no_acknowledgement")
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    last = [line for line in done.stdout.splitlines() if line][-2:]
    assert last[0] == "2 tests of infra/cdk were left out: make setup-cdk brings what they need"
    assert "2 skipped" in last[1]
