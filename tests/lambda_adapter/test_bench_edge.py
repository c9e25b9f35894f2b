"""The benchmark of the edge at a tiny size."""

from bench import edge


def test_bench_edge_small():
    figures = edge.bench(rounds=2, records=10, service_ms=0.0, cold_starts=1)

    # Of an opened change: its node's count, insight, claim, mark; and an entry, ten a call.
    assert (figures["calls_few"], figures["calls_all"]) == (2 * 4 + 1, 10 * 4 + 1)
    assert (figures["executions_ours"], figures["executions_stop"]) == (301, 304)
    assert figures["executions_stock"] > 500
