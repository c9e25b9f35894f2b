"""What really happened: the incidents, and the outcomes an operator would publish of them."""

from collections.abc import Iterable

import msgspec

from streams.contract import Outcome


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One cause, its class, and every stream it struck. Times in ms, event time, UTC."""

    incident: str
    class_: str = msgspec.field(name="class")
    start_ms: int
    end_ms: int
    streams: tuple[str, ...]
    precursor_start_ms: int | None  # null: abrupt, so that nobody could have known


def outcomes_of(incidents: Iterable[Incident]) -> list[Outcome]:
    """Return one outcome per incident and stream, in the order of the incidents."""
    return [
        Outcome(
            stream_id=stream,
            start=incident.start_ms,
            end=incident.end_ms,
            class_=incident.class_,  # type: ignore[arg-type]
            source="simulator",
            incident=incident.incident,
        )
        for incident in incidents
        for stream in incident.streams
    ]
