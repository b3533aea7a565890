"""Benchmarks: ``make bench``. They compare figures of one run; they are not tests."""
