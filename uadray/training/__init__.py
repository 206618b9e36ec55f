"""From tiles to trained networks."""
