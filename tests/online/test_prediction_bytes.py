"""A healthy prediction is written as text; the bytes are those that the contract's own encoder gives."""

from types import SimpleNamespace

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from online.champion import Champion
from online.worker import ScoredPartition
from streams.contract import MetricEvent, Prediction
from streams.stream_table import StreamTable
from tests.streams.strategies import T0

NAMES = st.text(min_size=1, max_size=40).filter(str.isprintable)


@settings(deadline=None, max_examples=60)
@given(names=st.lists(NAMES, min_size=1, max_size=8, unique=True), busy=st.floats(0, 100))
def test_every_prediction_has_the_bytes_of_the_contracts_encoder(names: list[str], busy: float) -> None:
    owner = ScoredPartition(3, topic="metrics", table=StreamTable(), champion=Champion())
    records = [
        SimpleNamespace(
            offset=i,
            timestamp=T0,
            key=None,
            value=msgspec.json.encode(MetricEvent(stream_id=f"node/{name}", ts=T0, utilization=busy)),
        )
        for i, name in enumerate(names)
    ]

    predictions = owner.advance(records).messages["predictions"]

    for i, (name, message) in enumerate(zip(names, predictions, strict=True)):
        found = msgspec.json.decode(message.value, type=Prediction)
        assert (found.stream_id, found.src) == (f"node/{name}", f"3:{i}:0")
        assert msgspec.json.encode(found) == message.value
    assert np.array(
        [message.key == b"node" or "/" in name for name, message in zip(names, predictions, strict=True)]
    ).all()
