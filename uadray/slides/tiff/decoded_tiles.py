"""File tiles that an open slide keeps decoded, because neighbouring tiles of the grid need them again."""

import threading
from collections import OrderedDict

from uadray.slides.slide import DECODED_BYTES, Rgb

TWO_LARGE_TILES_BYTES = 256 * 2**20
"""Two file tiles are kept decoded even if they are more than `DECODED_BYTES`, where they are not more than this."""

Key = tuple[int, int]
"""Level and number of a file tile."""


class DecodedTiles:
    """The file tiles used last, up to `DECODED_BYTES`. Safe to use from several threads."""

    def __init__(self) -> None:
        self._tiles: OrderedDict[Key, Rgb] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __contains__(self, key: Key) -> bool:
        return key in self._tiles

    def take(self, key: Key, *, again: bool) -> Rgb | None:
        """A tile, None where it is not kept; it is dropped unless it will be needed `again`."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is None:
                return None
            if again:
                self._tiles.move_to_end(key)
            else:
                self._bytes -= self._tiles.pop(key).nbytes
            return tile

    def keep(self, key: Key, tile: Rgb) -> None:
        """Keep a tile; those that have not been used for longest are dropped to make room for it."""
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = tile
                self._bytes += tile.nbytes
            room = max(DECODED_BYTES, tile.nbytes, min(2 * tile.nbytes, TWO_LARGE_TILES_BYTES))
            while self._bytes > room:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Drop all tiles."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0
