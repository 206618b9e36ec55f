"""Tiles changed on the device: enlarged nuclei, other scanners, views of one tile."""
