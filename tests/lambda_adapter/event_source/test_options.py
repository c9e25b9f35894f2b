"""AWS' names and limits, and the filter patterns that work here."""

import json

import pytest

from lambda_adapter.event_source import FilterCriteria, FilterRefused, Options, OptionsRefused


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"batch_size": 0}, "BatchSize"),
        ({"batch_size": 10_001}, "BatchSize"),
        ({"batch_size": True}, "BatchSize"),
        ({"maximum_batching_window_in_seconds": 301}, "MaximumBatchingWindowInSeconds"),
        ({"maximum_batching_window_in_seconds": 0.5}, "MaximumBatchingWindowInSeconds"),
        ({"maximum_retry_attempts": -2}, "MaximumRetryAttempts"),
        ({"maximum_retry_attempts": 10_001}, "MaximumRetryAttempts"),
        ({"maximum_record_age_in_seconds": 59}, "MaximumRecordAgeInSeconds"),
        ({"maximum_record_age_in_seconds": 604_801}, "MaximumRecordAgeInSeconds"),
        ({"starting_position": "EARLIEST"}, "StartingPosition"),
        ({"starting_position": "AT_TIMESTAMP"}, "StartingPosition"),
        ({"starting_position_timestamp": 1.0}, "StartingPosition"),
        ({"function_response_types": ("ReportFailures",)}, "FunctionResponseTypes"),
    ],
)
def test_what_aws_refuses_is_refused_by_its_name(values, named):
    with pytest.raises(OptionsRefused, match=named):
        Options(**values)


def test_the_bounds_themselves_are_taken():
    Options(batch_size=10_000, maximum_retry_attempts=10_000, maximum_record_age_in_seconds=604_800)
    Options(batch_size=1, maximum_retry_attempts=0, maximum_record_age_in_seconds=60)
    assert Options(maximum_batching_window_in_seconds=300).window_s == 300
    assert (Options().window_s, Options(maximum_batching_window_in_seconds=0).window_s) == (0.5, 0.0)


def test_a_request_of_aws_becomes_options():
    options = Options.from_aws(
        {
            "Topics": ["t"], "FunctionName": "f", "BatchSize": 5, "MaximumRetryAttempts": 3,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "FilterCriteria": {"Filters": [{"Pattern": '{"value": {"a": [1]}}'}]},
        }
    )  # fmt: skip

    assert (options.batch_size, options.maximum_retry_attempts, options.reports_item_failures) == (5, 3, True)
    assert options.filter_criteria.matches(b'{"a": 1}')


@pytest.mark.parametrize("key", ["ParallelizationFactor", "TumblingWindowInSeconds", "Batchsize"])
def test_a_setting_that_kafka_has_not_is_refused(key):
    with pytest.raises(OptionsRefused, match="no setting"):
        Options.from_aws({key: 1})


@pytest.mark.parametrize(
    ("attempts", "has_destination", "retries"), [(-1, False, None), (-1, True, 10), (0, True, 0), (50, True, 50)]
)
def test_infinite_retries_with_a_destination_are_bounded(attempts, has_destination, retries):
    assert Options(maximum_retry_attempts=attempts).retries_max(has_destination=has_destination) == retries


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ({"a": ["x", None]}, [{"a": "x"}, {"a": None}, {"a": ["y", "x"]}], [{"a": "y"}, {}, {"a": []}, "x", None]),
        ({"a": [1]}, [{"a": 1}, {"a": 1.0}], [{"a": "1"}, {"a": True}]),
        ({"a": [True]}, [{"a": True}], [{"a": 1}, {"a": "true"}]),
        ({"a": {"b": ["x"]}}, [{"a": {"b": "x"}}], [{"a": "x"}, {"a": {}}]),
        ({"a": ["x"], "b": ["y"]}, [{"a": "x", "b": "y"}], [{"a": "x"}]),
        ({"$or": [{"a": ["x"]}, {"b": ["y"]}]}, [{"a": "x"}, {"b": "y"}], [{"a": "y"}]),
        ({"a": [{"prefix": "le"}]}, [{"a": "leaf"}], [{"a": "Leaf"}, {"a": 1}, {}]),
        ({"a": [{"prefix": {"equals-ignore-case": "LE"}}]}, [{"a": "leaf"}], [{"a": "spine"}]),
        ({"a": [{"suffix": "17"}]}, [{"a": "leaf/17"}], [{"a": "leaf/1"}]),
        ({"a": [{"equals-ignore-case": "Leaf"}]}, [{"a": "LEAF"}], [{"a": "leaf-1"}]),
        ({"a": [{"wildcard": "leaf-*/1*"}]}, [{"a": "leaf-012/17"}], [{"a": "leaf-012/27"}, {"a": "a leaf-0/1"}]),
        ({"a": [{"numeric": [">", 0, "<=", 5]}]}, [{"a": 5}, {"a": 0.1}], [{"a": 0}, {"a": "3"}, {"a": True}, {}]),
        ({"a": [{"numeric": ["=", 3]}]}, [{"a": 3.0}], [{"a": 4}]),
        ({"a": [{"exists": True}]}, [{"a": None}], [{}, "text"]),
        ({"a": [{"exists": False}]}, [{}, "text"], [{"a": 0}]),
        ({"a": [{"anything-but": ["x", 1]}]}, [{"a": "y"}, {"a": 2}], [{"a": "x"}, {"a": 1}, {}]),
        ({"a": [{"anything-but": {"prefix": "le"}}]}, [{"a": "spine"}], [{"a": "leaf"}]),
        ([{"anything-but": ["error"]}], ["fine", None], ["error"]),
        (["error"], ["error"], ["fine"]),
    ],
)
def test_a_pattern_matches_as_eventbridge_has_it(pattern, matching, other):
    criteria = FilterCriteria((json.dumps({"value": pattern}),))

    def encoded(value):
        return value.encode() if isinstance(value, str) else None if value is None else json.dumps(value).encode()

    assert [value for value in matching if not criteria.matches(encoded(value))] == []
    assert [value for value in other if criteria.matches(encoded(value))] == []


def test_one_of_several_filters_is_enough():
    criteria = FilterCriteria(('{"value": {"a": [1]}}', '{"value": {"b": [2]}}'))

    assert (criteria.matches(b'{"b": 2}'), criteria.matches(b"{}"), criteria.matches(b"\xff")) == (True, False, False)


def test_brackets_in_thousands_are_a_plain_string():
    assert not FilterCriteria(('{"value": {"a": [1]}}',)).matches(b"[" * 100_000)


@pytest.mark.parametrize(
    "pattern",
    [
        "no JSON",
        '{"key": ["a"]}',
        '{"value": {}, "key": []}',
        '{"value": {"a": []}}',
        '{"value": {"a": "x"}}',
        '{"value": {"a": [{"cidr": "10.0.0.0/8"}]}}',
        '{"value": {"a": [{"numeric": [">"]}]}}',
        '{"value": {"a": [{"numeric": ["~", 1]}]}}',
        '{"value": {"a": [{"numeric": 5}]}}',
        '{"value": {"a": [{"numeric": [[], 5]}]}}',
        '{"value": {"a": [{"anything-but": {}}]}}',
        '{"value": {"$or": {"a": ["x"]}}}',
        '{"value": {"a": [{"prefix": 1}]}}',
        '{"value": {"a": [{"prefix": "a", "suffix": "b"}]}}',
        '{"value": {"a": [{"anything-but": {"numeric": [">", 1]}}]}}',
    ],
)
def test_a_pattern_that_works_not_here_is_refused_with_its_place(pattern):
    with pytest.raises(FilterRefused):
        FilterCriteria((pattern,))
