"""Detectors over a generator: from an image to the closest one that it draws, and what differs."""
