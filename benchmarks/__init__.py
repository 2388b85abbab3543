"""Benchmarks: `python -m benchmarks NAME --json FILE`. Each checks its answers before it times them."""
