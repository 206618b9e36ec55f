"""Slides that are painted, for the demo and the tests."""
