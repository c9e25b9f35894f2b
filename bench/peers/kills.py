"""kill −9 in the middle of the job, a new start under the same name, and what the windows have become by that."""

import asyncio
import contextlib
import time
from typing import Any

import psutil  # type: ignore[import-untyped]
from aiokafka import AIOKafkaConsumer

from bench.peers.engines import Engine
from bench.peers.feed import ends, fill, pace
from bench.peers.run import EngineFailed, Stage, Watch, fresh_topics, judged, started

KILL_AFTER_S = 12.0
"""Since the first output: every engine has committed, and linkcast has written a snapshot."""
FEED_S = 16.0
"""How long the input comes in, so that there is some on both sides of the kill."""
_TICKS_AHEAD = 40
_REST_S, _QUIET_S = 0.5, 5.0
_STALL_S_MAX = 90.0
"""Some wait for the session of the one that was killed: Faust's lasts 60 s."""


async def killed(stage: Stage, engine: Engine, app: str) -> dict[str, Any]:
    """Kill an engine once, start it again, let it work the input off, and count what is lost, repeated and wrong."""
    await fill(stage.kafka, f"{stage.prefix}metrics", stage.job.records(ticks=_TICKS_AHEAD))
    rest = list(stage.job.records(_TICKS_AHEAD))
    async with fresh_topics(stage, app) as topic_out, AIOKafkaConsumer(**stage.kafka.client_arguments()) as consumer:
        with started(stage, engine, app, topic_out) as process:
            watch = Watch(stage, consumer, process, topic_out, app)
            await watch.until(lambda: sum(watch.ends) > 0)
            # From now on, however long its start took: some has to be left for after the kill.
            feeder = asyncio.create_task(pace(stage.kafka, f"{stage.prefix}metrics", rest, len(rest) / FEED_S))
            kill_at = time.monotonic() + KILL_AFTER_S
            await watch.until(lambda: time.monotonic() >= kill_at)
            _kill(psutil.Process(process.pid))
            process.wait()
            before = await _at_rest(consumer, topic_out)
        with started(stage, engine, app, topic_out) as process:
            watch = Watch(stage, consumer, process, topic_out, app)
            restart_s = await watch.until(lambda: sum(watch.ends) > before)
            await feeder
            await _worked_off(watch, stage.job.events)
        verdict = await judged(stage, engine, topic_out)
    return {
        "version": engine.version, "killed_at": before, "outputs": verdict.outputs,
        # Counted to the end of the input, and not only up to each stream's newest output.
        "lost": stage.job.events - (verdict.outputs - verdict.repeated),
        "repeated": verdict.repeated, "wrong": verdict.wrong, "restart_s": round(restart_s, 1),
    }  # fmt: skip


async def _at_rest(consumer: AIOKafkaConsumer, topic_out: str) -> int:
    """Return how many outputs there are once the broker has taken what was on its way."""
    before, now = -1, 0
    while now != before:
        await asyncio.sleep(_REST_S)
        before, now = now, sum(await ends(consumer, topic_out))
    return now


def _kill(process: psutil.Process) -> None:
    for one in (*process.children(recursive=True), process):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


async def _worked_off(watch: Watch, events: int) -> None:
    """Wait until there are as many outputs as events and no more come, or none came for long: some are lost then."""
    before, quiet_since = watch.ends, time.monotonic()

    def is_quiet() -> bool:
        nonlocal before, quiet_since
        if watch.ends != before:
            before, quiet_since = watch.ends, time.monotonic()
        return time.monotonic() - quiet_since > _QUIET_S and sum(watch.ends) >= events

    with contextlib.suppress(EngineFailed):
        await watch.until(is_quiet, stall_s_max=_STALL_S_MAX)
