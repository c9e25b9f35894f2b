"""Benchmarks, fault injection and the peers: run from a checkout, not installed."""
