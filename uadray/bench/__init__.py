"""Benchmarks, one file each; each prints a ratio against a named limit or peer."""
