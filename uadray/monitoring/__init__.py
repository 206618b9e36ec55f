"""Metrics: every name, once."""
