"""A healthy prediction is written as text; the bytes are those that the contract's own encoder gives."""

from types import SimpleNamespace

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from online.models.bundle import load_bundle
from online.models.champion import Champion
from online.models.scoring import Scorer
from online.worker import prediction_json
from online.worker.partition import ScoredPartition
from online.worker.prediction_json import compile_encoder
from streams.compiled import kernel
from streams.contract import MetricEvent, Prediction
from streams.features.stream_table import StreamTable
from streams.wire import packed
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
            headers=(),
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


def test_healthy_and_eventful_rows_of_a_model_stand_in_log_order_with_the_encoders_bytes(
    write, tmp_path, signing_key
) -> None:
    champion = Champion()
    champion.scorer = Scorer(load_bundle(write(tmp_path), [signing_key.public_key()]))
    owner = ScoredPartition(3, topic="metrics", table=StreamTable(), champion=champion)
    latencies = np.random.default_rng(3).choice([0.1, 0.2, 9.0], 200).tolist()
    records = [
        SimpleNamespace(
            headers=(),
            offset=i,
            timestamp=T0 + 600_000 * i,
            key=None,
            value=msgspec.json.encode(
                MetricEvent(stream_id=f"leaf-{i % 5}/1", ts=T0 + 600_000 * i, latency_p99=latency, utilization=50.0)
            ),
        )
        for i, latency in enumerate(latencies)
    ]

    messages = list(owner.advance(records).messages["predictions"])

    found = [msgspec.json.decode(message.value, type=Prediction) for message in messages]
    assert [message.value for message in messages] == [msgspec.json.encode(prediction) for prediction in found]
    assert [(p.src, p.stream_id, p.ts) for p in found] == [
        (f"3:{i}:0", f"leaf-{i % 5}/1", T0 + 600_000 * i) for i in range(200)
    ]
    assert [message.key for message in messages] == [b"leaf-%d" % (i % 5) for i in range(200)]
    assert {p.model for p in found} == {champion.scorer.version}
    is_healthy = [p.class_ == "healthy" for p in found]
    assert 20 < sum(is_healthy) < 180, "both kinds must be among them, or this proved less"
    assert all((p.drivers is not None) == (p.risk >= 80) for p in found if abs(p.risk - 80) > 0.01)
    assert any(p.drivers for p in found)
    assert all((p.probabilities is None) == healthy for p, healthy in zip(found, is_healthy, strict=True))


def test_a_worker_that_has_compiled_its_encoder_compiles_none_of_it_on_its_first_batch(monkeypatch) -> None:
    kernels = []
    for module, name in ((prediction_json, "_write"), (packed, "_cut"), (packed, "_write")):
        # One that no other test has called yet.
        kernels.append(kernel(getattr(module, name).py_func))
        monkeypatch.setattr(module, name, kernels[-1])
    compile_encoder()
    compiled = [set(kernel.signatures) for kernel in kernels]
    owner = ScoredPartition(3, topic="metrics", table=StreamTable(), champion=Champion())
    event = MetricEvent(stream_id="leaf-1/1", ts=T0, utilization=50.0)
    record = SimpleNamespace(offset=0, timestamp=T0, key=None, headers=(), value=msgspec.json.encode(event))

    predictions = owner.advance([record]).messages["predictions"]
    packed.pack(predictions, timestamp_ms=T0, bytes_max=1 << 18, is_transactional=False)

    assert len(predictions) == 1
    assert [set(kernel.signatures) for kernel in kernels] == compiled
