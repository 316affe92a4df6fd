"""Measure forkrpc beside its peers: ``python -m benchmarks``."""
