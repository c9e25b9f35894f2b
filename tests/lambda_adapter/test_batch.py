"""The order and the bound of what runs again, by a source that replays from the lowest failed offset."""

from hypothesis import given
from hypothesis import strategies as st

from lambda_adapter.batch import OrderedKafkaProcessor


def delivered(processor, offsets, fails, *, batch_records):
    """Hand out a partition as the event source mapping does; return the offsets run, in order, and those run well."""
    run, done = [], []

    def handle(record):
        run.append(record.offset)
        if fails(record.offset, run.count(record.offset)):
            raise TimeoutError
        done.append(record.offset)

    at = 0
    while at < offsets:
        records = [{"topic": "t", "partition": 0, "offset": o} for o in range(at, min(at + batch_records, offsets))]
        with processor(records, handle):
            processor.process()
        failed = processor.response()["batchItemFailures"]
        at = failed[0]["itemIdentifier"]["offset"] if failed else at + len(records)
    return run, done


@given(
    offsets=st.integers(1, 60),
    batch_records=st.integers(1, 20),
    failures=st.dictionaries(st.integers(0, 59), st.integers(1, 3), max_size=6),
)
def test_each_record_runs_well_once_in_order_and_again_only_for_its_own_failures(offsets, batch_records, failures):
    run, done = delivered(
        OrderedKafkaProcessor(), offsets, lambda o, n: n <= failures.get(o, 0), batch_records=batch_records
    )

    assert done == list(range(offsets))
    assert len(run) == offsets + sum(n for o, n in failures.items() if o < offsets)


def test_a_failure_found_at_the_end_counts_from_its_own_record():
    records = [{"topic": "t", "partition": 0, "offset": o} for o in range(5)]
    processor = OrderedKafkaProcessor(finish=lambda: [(records[4], OSError()), (records[2], OSError())])
    with processor(records, lambda record: None):
        processor.process()

    assert processor.response() == {"batchItemFailures": [{"itemIdentifier": {"partition": "t-0", "offset": 2}}]}
