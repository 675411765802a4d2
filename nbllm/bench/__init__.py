"""Benchmarks whose numbers can be trusted."""
