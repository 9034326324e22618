"""Benchmarks on real servers: `make bench-stack` (docs/measured.md)."""
