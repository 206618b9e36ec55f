"""Slides and tile sets on Ray Data."""
