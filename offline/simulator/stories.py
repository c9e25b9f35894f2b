"""How each fault class looks at the ports it strikes, before and while: strikes to segments.

The magnitudes are those of the research table (docs/data.md names it); uniform between the bounds written here. A far
end shares what the cable shares (it is down, or carries less), whether or not the truth names it.
"""

from collections.abc import Callable, Iterator

import numpy as np

from offline.simulator import segments as effect
from offline.simulator.draws import MINUTE_MS, draws
from offline.simulator.faults import Strike
from offline.simulator.segments import Segment


class Story:
    """One strike being told: what it does from its precursor on, as segments."""

    def __init__(self, strike: Strike, draw: np.random.Generator, precursor_strength: float) -> None:
        self.strike, self.draw, self._strength = strike, draw, precursor_strength
        self.ports = strike.ports
        self.cables = tuple(sorted({end for port in strike.ports for end in (port, port ^ 1)}))

    def between(self, low: float, high: float, *, is_log: bool = False) -> float:
        """Draw uniformly between two bounds, on a logarithmic scale if `is_log`."""
        return float(np.exp(self.draw.uniform(np.log(low), np.log(high))) if is_log else self.draw.uniform(low, high))

    def before(
        self, ports: tuple[int, ...], what: int, first: float, last: float, *, is_log: bool = False
    ) -> Iterator[Segment]:
        """Yield a ramp over the precursor, if this strike has one; its strength scales the way from first to last."""
        begins = self.strike.precursor_start_ms
        if begins is not None:
            way = (last / first) ** self._strength * first if is_log else first + self._strength * (last - first)
            for port in ports:
                yield Segment(port, what, begins, self.strike.start_ms, first, way, is_log)

    def during(self, ports: tuple[int, ...], what: int, value: float) -> Iterator[Segment]:
        """Yield a flat value over the incident."""
        for port in ports:
            yield Segment(port, what, self.strike.start_ms, self.strike.end_ms, value)


def segments_of(strike: Strike, *, seed: int, precursor_strength: float) -> Iterator[Segment]:
    """Yield what `strike` does to its ports and their cables."""
    story = Story(strike, draws(seed, "story", strike.name, strike.draw_id), precursor_strength)
    yield from _STORIES[strike.name](story)


def _failing_connector(story: Story, near: int) -> Iterator[Segment]:
    """Before a flap or a link's end: bad symbols and packets at one end, retrainings felt at both."""
    yield from story.before((near,), effect.SYMBOL, 0.01, 10.0, is_log=True)
    yield from story.before((near,), effect.ERROR, 1e-8, 2e-3, is_log=True)
    yield from story.before((near ^ 1,), effect.ERROR, 1e-9, 1e-4, is_log=True)
    yield from story.before(story.ports, effect.RECOVERY, 0.05, 2.0)
    yield from story.before(story.ports, effect.LATENCY, 1.0, 1.15)  # each retraining stalls 50 ms to 2 s


def _connection_instability(story: Story) -> Iterator[Segment]:
    near = story.ports[int(story.draw.integers(2))]
    yield from _failing_connector(story, near)
    errors = story.between(0.0105, 0.0195)
    yield from story.during((near,), effect.ERROR, errors)
    # In nine of ten only one end receives bad packets; the other discards what it holds when the link flaps.
    yield from story.during((near ^ 1,), effect.ERROR, errors if story.draw.random() < 0.1 else 0.2 * errors)
    yield from story.during(story.ports, effect.QP, story.between(5, 30))
    yield from story.during(story.ports, effect.RECOVERY, 4.0)
    t = story.strike.start_ms
    while t < story.strike.end_ms:
        up = t + int(1_000 * story.between(2, 30))
        for port in story.ports:
            yield Segment(port, effect.DOWN, t, up, 1.0)
        t = up + int(1_000 * story.draw.exponential(90))


def _packet_loss_detected(story: Story) -> Iterator[Segment]:
    yield from story.before(story.ports, effect.ERROR, 1e-9, 2e-2, is_log=True)
    yield from story.during(story.ports, effect.ERROR, story.between(0.022, 0.05))
    yield from story.during(story.ports, effect.LATENCY, story.between(1.1, 1.35))
    yield from story.during((story.ports[0] ^ 1,), effect.REMOTE, 1e-3)


def _rdma_timeout(story: Story) -> Iterator[Segment]:
    yield from story.before(story.ports, effect.QP, 2.0, 30.0)
    yield from story.before(story.ports, effect.RECOVERY, 0.1, 2.0)
    yield from story.before(story.ports, effect.ERROR, 1e-7, 5e-3, is_log=True)
    yield from story.before(story.ports, effect.LATENCY, 1.0, 1.5)
    yield from story.during(story.ports, effect.ERROR, story.between(0.056, 0.15))
    yield from story.during(story.ports, effect.LATENCY, story.between(4.8, 12))
    yield from story.during(story.ports, effect.BANDWIDTH, story.between(0.05, 0.4))
    yield from story.during(story.ports, effect.QP, story.between(20, 80))


def _hard_down(story: Story) -> Iterator[Segment]:
    yield from _failing_connector(story, story.ports[int(story.draw.integers(2))])
    yield from story.during(story.ports, effect.DOWN, 1.0)
    if story.draw.random() < 0.5:
        yield from story.during(story.ports, effect.SILENT, 1.0)


def _bandwidth_throttling(story: Story) -> Iterator[Segment]:
    yield from story.before(story.ports, effect.RECOVERY, 0.1, 2.0)
    yield from story.before(story.ports, effect.ERROR, 1e-8, 1e-4, is_log=True)
    yield from story.before(story.ports, effect.LATENCY, 1.0, 1.18)
    has_trained_down = story.draw.random() < 0.5
    width = 0.25 if story.draw.random() < 0.3 else 0.5
    yield from story.during(story.ports, effect.BANDWIDTH, width if has_trained_down else story.between(0.25, 0.6))
    if has_trained_down:  # 4x to 2x or 1x: the rate falls with the traffic, so utilization stays
        yield from story.during(story.ports, effect.RATE, width)
    yield from story.during(story.ports, effect.STALL, 0.3)


def _performance_degradation(story: Story) -> Iterator[Segment]:
    strike = story.strike
    minutes = 0.0 if strike.precursor_start_ms is None else (strike.start_ms - strike.precursor_start_ms) / MINUTE_MS
    yield from story.before(story.ports, effect.LATENCY, 1.0, min(1.45, 1.0 + 0.01 * minutes))  # one percent a minute
    yield from story.during(story.ports, effect.LATENCY, story.between(1.7, 4.0))


def _latency_spike(story: Story) -> Iterator[Segment]:
    yield from story.before(story.ports, effect.LATENCY, 1.02, 1.22)
    yield from story.before(story.ports, effect.STALL, 0.02, 0.2)
    yield from story.during(story.ports, effect.LATENCY, story.between(1.33, 1.47))
    yield from story.during(story.ports, effect.STALL, 0.25)


def _resource_saturation(story: Story) -> Iterator[Segment]:
    yield from story.before(story.cables, effect.LOAD, 0.35, 0.85)
    yield from story.during(story.cables, effect.LOAD, story.between(0.93, 0.985))
    yield from story.during(story.cables, effect.STALL, 0.3)


def _qp_error_rate_high(story: Story) -> Iterator[Segment]:
    yield from story.before(story.ports, effect.QP, 2.0, 60.0, is_log=True)
    yield from story.during(story.ports, effect.QP, story.between(150, 1e4, is_log=True))
    yield from story.during(story.cables, effect.BANDWIDTH, 0.02)


def _memory_registration_failure(story: Story) -> Iterator[Segment]:
    yield from story.before(story.ports, effect.MR, 0.1, 1.0)
    yield from story.during(story.ports, effect.MR, story.between(4, 80, is_log=True))
    yield from story.during(story.cables, effect.BANDWIDTH, story.between(0.0, 0.1))


def _anomaly_detected(story: Story) -> Iterator[Segment]:
    match int(story.draw.integers(3)):
        case 0:
            yield from story.before(story.cables, effect.LOAD, 0.3, 0.75)
            yield from story.during(story.cables, effect.LOAD, story.between(0.82, 0.88))
        case 1:
            yield from story.before(story.ports, effect.LATENCY, 1.0, 1.15)
            yield from story.during(story.ports, effect.LATENCY, story.between(1.22, 1.28))
        case _:
            yield from story.before(story.ports, effect.ERROR, 1e-7, 3e-3, is_log=True)
            yield from story.during(story.ports, effect.ERROR, story.between(0.0055, 0.0095))


_STORIES: dict[str, Callable[[Story], Iterator[Segment]]] = {
    "connection_instability": _connection_instability,
    "packet_loss_detected": _packet_loss_detected,
    "rdma_timeout": _rdma_timeout,
    "hard_down": _hard_down,
    "bandwidth_throttling": _bandwidth_throttling,
    "performance_degradation": _performance_degradation,
    "latency_spike": _latency_spike,
    "resource_saturation": _resource_saturation,
    "qp_error_rate_high": _qp_error_rate_high,
    "memory_registration_failure": _memory_registration_failure,
    "anomaly_detected": _anomaly_detected,
}
