"""Benchmarks of the store: ``make bench``. They compare within one run, and are no tests."""
