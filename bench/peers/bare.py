"""The floor: plain aiokafka carries the bytes from `in` to `out`, nothing decoded, offsets committed every second."""

import argparse
import asyncio
import signal
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

COMMIT_S = 1.0


async def main(arguments: argparse.Namespace) -> None:
    """Carry records until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    consumer = AIOKafkaConsumer(
        arguments.topic_in,
        bootstrap_servers=arguments.bootstrap,
        group_id=arguments.app,
        group_instance_id=arguments.app,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 << 20,
        fetch_max_wait_ms=100,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=arguments.bootstrap, enable_idempotence=True, linger_ms=5, max_batch_size=256 << 10
    )
    async with producer, consumer:
        sent, commit_at = [], time.monotonic() + COMMIT_S
        while not stop.is_set():
            for tp, records in (await consumer.getmany(timeout_ms=100, max_records=8_192)).items():
                sent += await _send(producer, arguments.topic_out, tp.partition, records)
            if time.monotonic() >= commit_at:
                await asyncio.gather(*sent)  # only a batch's future knows that it failed
                await consumer.commit()
                sent, commit_at = [], time.monotonic() + COMMIT_S
        await asyncio.gather(*sent)
        await consumer.commit()


async def _send(producer: AIOKafkaProducer, topic: str, partition: int, records: list) -> list[asyncio.Future]:
    sent, batch = [], producer.create_batch()
    for record in records:
        if batch.append(timestamp=None, key=record.key, value=record.value) is None:
            sent.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            batch.append(timestamp=None, key=record.key, value=record.value)
    sent.append(await producer.send_batch(batch, topic, partition=partition))
    return sent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--in", dest="topic_in", required=True)
    parser.add_argument("--out", dest="topic_out", required=True)
    parser.add_argument("--app", required=True)
    parser.add_argument("--state", help="unused: there is none")
    asyncio.run(main(parser.parse_args()))
