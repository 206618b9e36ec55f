"""Units as types, so that a checker sees when a level-0 pixel is taken for a micron."""

from typing import NewType

Microns = NewType("Microns", float)
"""Length on the glass, in micrometres."""

Mpp = NewType("Mpp", float)
"""Micrometres per pixel, the same in x and y."""

Level0Px = NewType("Level0Px", int)
"""Integer pixels of the slide's finest level, origin top left."""

TilePx = NewType("TilePx", int)
"""Pixels of a tile as a model sees it."""
