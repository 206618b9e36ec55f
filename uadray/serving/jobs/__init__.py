"""Slide jobs: the queue in the object store, and the worker."""
