"""The specification's feature engineering in pandas, as it is written there: the yardstick of `bench.backfill`.

Windows are counted in rows and baselines look into the future; none of that is repaired here. Left out
are the printed lines and the final `dropna`, which with a metric that is missing leaves no row to compare; and
`day_of_week` is pandas' new name for its `dayofweek`.
"""

from typing import Any

import pandas as pd


def features(df: pd.DataFrame) -> pd.DataFrame:
    """Return `df`, of columns stream_id, timestamp and the metrics, with the specification's features."""
    return _interaction(_time(_rates(_deltas(_rolling(df)))))


def _rolling(df: pd.DataFrame) -> pd.DataFrame:
    df = df.sort_values(["stream_id", "timestamp"])

    def mean(metric: str, window: int) -> Any:
        return df.groupby("stream_id")[metric].transform(lambda x: x.rolling(window=window, min_periods=1).mean())

    df["latency_p99_5m_avg"] = mean("latency_p99", 5)
    df["utilization_5m_avg"] = mean("utilization", 5)
    df["latency_p99_5m_std"] = df.groupby("stream_id")["latency_p99"].transform(
        lambda x: x.rolling(window=5, min_periods=1).std()
    )
    df["latency_p99_15m_avg"] = mean("latency_p99", 15)
    df["latency_p99_1h_avg"] = mean("latency_p99", 60)
    return df


def _deltas(df: pd.DataFrame) -> pd.DataFrame:
    baselines = (
        df.groupby("stream_id")
        .agg({"latency_p99": "median", "utilization": "median", "error_rate": "median", "bandwidth_gbps": "median"})
        .add_suffix("_baseline")
    )
    df = df.merge(baselines, left_on="stream_id", right_index=True)
    df["latency_p99_delta_pct"] = (df["latency_p99"] - df["latency_p99_baseline"]) / df["latency_p99_baseline"] * 100
    df["utilization_delta_pct"] = df["utilization"] - df["utilization_baseline"]
    df["bandwidth_delta_pct"] = (
        (df["bandwidth_gbps"] - df["bandwidth_gbps_baseline"]) / df["bandwidth_gbps_baseline"] * 100
    )
    df["latency_p99_delta_abs"] = df["latency_p99"] - df["latency_p99_baseline"]
    return df


def _rates(df: pd.DataFrame) -> pd.DataFrame:
    df = df.sort_values(["stream_id", "timestamp"])
    df["latency_p99_rate"] = df.groupby("stream_id")["latency_p99"].diff()
    df["utilization_rate"] = df.groupby("stream_id")["utilization"].diff()
    df["latency_p99_accel"] = df.groupby("stream_id")["latency_p99_rate"].diff()
    return df


def _time(df: pd.DataFrame) -> pd.DataFrame:
    df["timestamp"] = pd.to_datetime(df["timestamp"])
    df["hour"] = df["timestamp"].dt.hour
    df["day_of_week"] = df["timestamp"].dt.day_of_week
    df["is_weekend"] = df["day_of_week"].isin([5, 6]).astype(int)
    df["is_business_hours"] = df["hour"].between(8, 18).astype(int)
    return df


def _interaction(df: pd.DataFrame) -> pd.DataFrame:
    df["latency_x_utilization"] = df["latency_p99"] * df["utilization"] / 100
    df["error_x_bandwidth"] = df["error_rate"] * df["bandwidth_gbps"]
    df["health_score"] = 100 - (
        (df["utilization"] * 0.4) + (df["latency_p99_delta_pct"].clip(0, 100) * 0.3) + (df["error_rate"] * 1000 * 0.3)
    ).clip(0, 100)
    return df


def labels(df: pd.DataFrame) -> pd.DataFrame:
    """Return `df` with the specification's labels, row by row as it does."""
    # Its baselines are keyed by metric and its rules ask for `latency` and `bandwidth`: a KeyError, repaired here.
    medians = df.groupby("stream_id").agg({"latency_p99": "median", "bandwidth_gbps": "median"})
    baselines = medians.rename(columns={"latency_p99": "latency", "bandwidth_gbps": "bandwidth"}).to_dict("index")
    found = []
    for _, row in df.iterrows():
        label, risk, confidence = _label(row, baselines[row["stream_id"]])
        found.append(
            {
                "prediction_type": label,
                "risk_score": risk,
                "label_confidence": confidence,
                "needs_review": label is None or confidence < 0.75,
            }
        )
    return pd.concat([df.reset_index(drop=True), pd.DataFrame(found)], axis=1)


def _label(row: Any, baseline: dict[str, float]) -> tuple[str | None, int, float]:
    if row["utilization"] > 90:
        return "resource_saturation", int(min(100, 70 + (row["utilization"] - 90) * 3)), 0.95
    if row["qp_errors"] > 100:
        return "qp_error_rate_high", int(min(100, 60 + row["qp_errors"] / 10)), 0.90
    if row["error_rate"] > 0.05 and row["latency_p99"] > baseline["latency"] * 4:
        return "rdma_timeout", 95, 0.92
    latency_increase = (row["latency_p99"] - baseline["latency"]) / baseline["latency"]
    if latency_increase > 0.5:
        return "performance_degradation", int(min(100, 60 + latency_increase * 60)), 0.85
    if row["error_rate"] > 0.02:
        return "packet_loss_detected", int(min(100, 50 + row["error_rate"] * 1000)), 0.88
    if latency_increase > 0.3 and latency_increase <= 0.5:
        return "latency_spike", 70, 0.80
    bandwidth_ratio = row["bandwidth_gbps"] / baseline["bandwidth"]
    if bandwidth_ratio < 0.7:
        return "bandwidth_throttling", int(60 + (1 - bandwidth_ratio) * 50), 0.75
    if row["error_rate"] > 0.01 and row["error_rate"] <= 0.02:
        return "connection_instability", 65, 0.82
    if any([row["utilization"] > 80, latency_increase > 0.2, row["error_rate"] > 0.005]):
        return "anomaly_detected", 55, 0.65
    return None, 0, 0.0
