"""Dead letters on a real topic, and what becomes of them without one."""

import asyncio
import gc

import pytest

from lambda_adapter.dead_letters import DeadLetter, DeadLetters, DeadLetterUndelivered
from lambda_adapter.records import KafkaRecord, RecordRefused


def letter(offset, value=b"{", key=b"leaf-012"):
    return DeadLetter(
        KafkaRecord("linkcast.predictions", 3, offset, key, value), RecordRefused("not_json", "the value is no JSON")
    )


@pytest.mark.kafka
async def test_dead_letters_arrive_with_their_bytes_and_where_they_came_from(kafka, topics, consume_all):
    topic = f"{topics}metrics.dead"
    letters = [letter(7), letter(8, value=None, key=None), letter(9, value=b"\xff" * 2_000_000)]

    # From inside an event loop on purpose: the event-source emulator may call the handler from one.
    DeadLetters(topic, kafka.bootstrap).send(letters)

    arrived = {dict(record.headers)["offset"]: record for record in await consume_all(topic)}
    assert arrived.keys() == {b"7", b"8", b"9"}
    assert [(arrived[o].key, arrived[o].value) for o in (b"7", b"8", b"9")] == [
        (b"leaf-012", b"{"), (None, b""), (b"leaf-012", b"\xff" * 900 * 1024),
    ]  # fmt: skip
    assert dict(arrived[b"7"].headers) == {
        "reason": b"not_json",
        "detail": b"the value is no JSON",
        "topic": b"linkcast.predictions",
        "partition": b"3",
        "offset": b"7",
        "bytes": b"1",
    }
    assert dict(arrived[b"9"].headers)["bytes"] == b"2000000"


@pytest.mark.kafka
def test_a_topic_that_is_not_there_is_an_error_within_the_time(kafka):
    with pytest.raises(DeadLetterUndelivered, match=r"nowhere .* Is the topic there"):
        DeadLetters("nowhere", kafka.bootstrap, seconds=1).send([letter(1)])
    gc.collect()  # a client left open would warn


async def test_a_broker_that_does_not_answer_is_an_error_within_the_time():
    left = asyncio.Event()

    async def silent(reader, writer):
        await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(DeadLetterUndelivered, match="1 dead letters to t at"):
        await asyncio.to_thread(DeadLetters("t", f"127.0.0.1:{port}", seconds=0.5).send, [letter(1)])
    await left.wait()
    server.close()
    gc.collect()  # a client left open would warn


def test_no_dead_letter_needs_no_broker():
    DeadLetters("t", "127.0.0.1:1").send([])
