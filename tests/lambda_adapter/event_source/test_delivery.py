"""Batches played through against functions that fail by rule: nothing lost, order kept, bounds held."""

import math
from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from lambda_adapter.event_source.batcher import Batcher
from lambda_adapter.event_source.delivery import Piece, Policy, halves, size, without_expired
from lambda_adapter.event_source.event import Partition
from tests.lambda_adapter.event_source.test_event import record


def batch_of(*sizes):
    return tuple(
        Piece(Partition("t", p), tuple(record(o, partition=p, topic="t") for o in range(n)))
        for p, n in enumerate(sizes)
    )


def identity(each):
    return each.partition, each.offset


def play(policy, batch, attempt):
    """Deliver a batch; return attempts (lists of identities), what was given up, and how many settled."""
    left, attempts, given_up, settled = deque([batch]), [], [], 0
    while left:
        now = left.popleft()
        attempts.append([identity(each) for piece in now for each in piece.records])
        verdict = attempt(policy, now)
        left.extendleft(reversed(verdict.again))
        given_up += [identity(each) for group in verdict.given_up for each in group.records]
        settled += verdict.settled
        assert len(attempts) < 10_000
    return attempts, given_up, settled


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=4)


@given(sizes=SIZES, data=st.data(), bisect=st.booleans(), retries_max=st.integers(0, 3), in_part=st.booleans())
def test_each_record_is_settled_or_given_up_once_and_none_overtakes(sizes, data, bisect, retries_max, in_part):
    batch = batch_of(*sizes)
    everything = [identity(each) for piece in batch for each in piece.records]
    poison = data.draw(st.sets(st.sampled_from(everything), max_size=3))
    done = []

    def attempt(policy, now):
        bad = {piece.partition: [r.offset for r in piece.records if identity(r) in poison] for piece in now}
        lowest = {partition: offsets[0] for partition, offsets in bad.items() if offsets}
        if not lowest:
            verdict = policy.succeeded(now)
        else:
            verdict = policy.failed_in_part(now, lowest) if in_part else policy.failed(now, "poison")
        again = {identity(r) for b in verdict.again for piece in b for r in piece.records}
        over = [identity(r) for piece in now for r in piece.records if identity(r) not in again]
        done.extend(over)
        return verdict

    _, given_up, settled = play(Policy(retries_max, bisect), batch, attempt)

    assert Counter(done) == Counter(everything)
    for p in range(len(sizes)):
        offsets = [offset for partition, offset in done if partition == p]
        assert offsets == sorted(offsets)
    assert poison <= set(given_up)
    assert settled == len(everything) - len(given_up)
    if bisect:
        assert set(given_up) == poison  # isolated


@given(sizes=SIZES, data=st.data(), retries=st.integers(0, 3))
def test_bisection_attempts_a_poison_once_and_log2_of_its_batch_times_before_it_stands_alone(sizes, data, retries):
    batch = batch_of(*sizes)
    poison = data.draw(st.sampled_from([identity(each) for piece in batch for each in piece.records]))

    def attempt(policy, now):
        is_bad = any(identity(each) == poison for piece in now for each in piece.records)
        return policy.failed(now, "poison") if is_bad else policy.succeeded(now)

    attempts, given_up, _ = play(Policy(retries, bisect=True), batch, attempt)

    of_poison = [each for each in attempts if poison in each]
    assert len(of_poison) <= 1 + math.ceil(math.log2(size(batch))) + retries
    assert of_poison[-1] == [poison] == given_up


def test_a_checkpoint_that_moved_counts_its_retries_anew():
    policy = Policy(retries_max=1, bisect=False)
    (batch,) = policy.failed_in_part(batch_of(5), {Partition("t", 0): 0}).again  # stuck: its one retry
    verdict = policy.failed_in_part(batch, {Partition("t", 0): 3})

    assert [(piece.records[0].offset, piece.retries) for piece in verdict.again[0]] == [(3, 1)]
    assert policy.failed(verdict.again[0], "again").given_up[0].attempts == 2


def test_what_succeeded_behind_a_failure_is_given_up_with_it():
    verdict = Policy(retries_max=0, bisect=False).failed_in_part(batch_of(5, 2), {Partition("t", 0): 2})

    assert [record.offset for record in verdict.given_up[0].records] == [2, 3, 4]
    assert (verdict.settled, verdict.again) == (4, ())


@given(sizes=SIZES)
def test_halves_are_halves(sizes):
    batch = batch_of(*sizes, 1)
    left, right = halves(batch)

    assert 0 <= size(left) - size(right) <= 1
    assert [r for half in (left, right) for p in half for r in p.records] == [r for p in batch for r in p.records]


def test_expired_records_are_taken_out_wherever_they_stand():
    fresh, given_up = without_expired(batch_of(3), now_ms=1_545_084_650_987 + 60_001, age_ms_max=60_000)

    assert fresh == ()
    assert [len(group.records) for group in given_up] == [3]


def batcher(**arguments):
    return Batcher(**{"batch_size": 10, "window_s": 5.0, "overhead_bytes": 100, **arguments})


P, Q = Partition("t", 0), Partition("t", 1)


def records(n, *, partition=0, **arguments):
    return [record(o, partition=partition, topic="t", **arguments) for o in range(n)]


def test_a_batch_is_due_when_it_is_full_or_its_oldest_record_has_waited_the_window():
    some = batcher()
    assert some.ready_in_s(0.0) is None
    some.add(P, records(4), next_offset=4, now_s=1.0)
    assert (some.ready_in_s(1.0), some.ready_in_s(4.0), some.ready_in_s(7.0)) == (5.0, 2.0, 0.0)
    some.add(Q, records(6, partition=1), next_offset=6, now_s=2.0)
    assert some.ready_in_s(2.0) == 0.0


def test_a_batch_is_due_when_its_payload_is_full():
    some = batcher(payload_bytes_max=800)
    some.add(P, records(6), next_offset=6, now_s=0.0)

    assert some.ready_in_s(0.0) == 0.0
    assert 0 < size(some.take().batch) < 6


def test_a_partition_under_way_gives_nothing_and_the_others_do():
    some = batcher(batch_size=3)
    some.add(P, records(5), next_offset=9, now_s=0.0)
    some.add(Q, records(2, partition=1), next_offset=2, now_s=1.0)

    first, second = some.take(), some.take()
    assert [(piece.partition, len(piece.records)) for piece in first.batch] == [(P, 3)]
    assert [(piece.partition, len(piece.records)) for piece in second.batch] == [(Q, 2)]
    assert some.ready_in_s(9.0) is None
    some.free(P)
    last = some.take()
    assert (first.ends, last.ends) == ({P: 3}, {P: 9})  # past what the filter skipped, only once all before it is out


def test_a_record_too_large_for_any_batch_comes_out_alone():
    some = batcher(payload_bytes_max=1_000)
    some.add(P, [*records(1), record(1, topic="t", value=b"x" * 2_000), record(2, topic="t")], next_offset=3, now_s=0.0)

    taken = []
    for _ in range(3):
        taken.append([each.offset for piece in some.take().batch for each in piece.records])
        some.free(P)
    assert taken == [[0], [1], [2]]


def test_a_partition_that_is_full_asks_for_no_more():
    some = batcher()
    some.add(P, records(2_000), next_offset=2_000, now_s=0.0)

    assert (some.has_room(P), some.has_room(Q)) == (False, True)
