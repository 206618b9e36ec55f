"""Supervised classifiers of tiles: what is asked whether a generator's tiles look like those of their class."""
