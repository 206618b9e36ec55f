"""From the thumbnail to good tiles, and from these to pixels."""
