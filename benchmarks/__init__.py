"""Benchmarks, comparisons and their reports."""
