"""Announced regions -> the bytes of their file tiles, fetched from S3 some megabytes before they are needed.

Which file tile is needed when is worked out once, from the announced boxes. Each file tile is fetched shortly before
the first box that touches it, and kept, still encoded, until the last box that touches it has been read. File tiles
that follow each other are fetched in one call of `storage.objects.read_ranges`, which sorts by place in the file, joins
gaps up to 64 KiB into reads of at most 8 MiB, and has 32 requests in flight.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from uadray.slides.slide import Boxes
from uadray.slides.tiff.byte_source import Span
from uadray.slides.tiff.level_tiles import TiffLevel

FIRST_FETCH_BYTES, FETCH_BYTES = 2**20, 8 * 2**20
"""Encoded bytes that are fetched together, so that gaps can be joined: first some 70 tiles, which are decoded while
others are still on their way; each fetch has twice the bytes of the one before. One request of 8 MiB takes a third less
of a server's processor than eight of one, and a tenth less of the client's."""

AHEAD_BYTES = 32 * 2**20
"""Encoded bytes that are asked for before they are needed: more than a second of decoding."""

KEPT_BYTES = 64 * 2**20
"""Encoded bytes that are kept for a second use at the most: the file tiles under a border of two columns of tiles."""

FETCHES_IN_FLIGHT = 16

Read = Callable[[Sequence[Span]], list[bytes]]


class Announcement:
    """What will be read: boxes of one level, in this order and by one thread. Knows which file tiles are needed again.

    Attributes:
        level: number of the level.
        n_boxes: how many boxes.
        position: how many boxes have been read.
        ahead: what fetches their bytes; None for a file on a disk, whose bytes are read when they are needed.
    """

    def __init__(self, number: int, level: TiffLevel, boxes: Boxes, read: Read | None) -> None:
        box, tile = touched_tiles(level, boxes)
        self.level, self.n_boxes, self.position = number, len(boxes), 0
        self._boxes = boxes
        self._uses = np.bincount(tile, minlength=len(level.lengths)).astype(np.int32)
        self.ahead = ReadAhead(read, level, len(boxes), box, tile) if read else None

    def is_next(self, level: int, box: tuple[int, int, int, int]) -> bool:
        """Whether this is the next box that was announced."""
        return level == self.level and self.position < self.n_boxes and self._boxes[self.position].tolist() == list(box)

    def use(self, tile: int) -> bool:
        """Count one use of a file tile by the next box; tells whether a later box will use it too."""
        self._uses[tile] -= 1
        return bool(self._uses[tile] > 0)

    def advance(self) -> None:
        """Say that the next box has been read."""
        self.position += 1
        if self.ahead:
            self.ahead.advance()

    def close(self) -> None:
        """Stop fetching ahead."""
        if self.ahead:
            self.ahead.close()


class ReadAhead:
    """Fetches the file tiles of an announcement.

    Args:
        read: gives the bytes of spans; called in threads of its own.
        level: where the file tiles lie.
        n_boxes: how many boxes were announced.
        box: with `tile`, which file tiles each box touches, see `touched_tiles`.
        tile: see there.
    """

    def __init__(
        self, read: Read, level: TiffLevel, n_boxes: int, box: npt.NDArray[np.int32], tile: npt.NDArray[np.int32]
    ) -> None:
        self._read, self._level, self._n_boxes = read, level, n_boxes
        first, self._last = np.full((2, len(level.lengths)), -1, np.int32)  # boxes that use a tile first and last
        first[tile[::-1]], self._last[tile] = box[::-1], box  # of repeated indices numpy keeps the last
        tiles = np.flatnonzero((first >= 0) & (level.lengths > 0))
        tiles = tiles[np.argsort(first[tiles], kind="stable")]
        sums = np.cumsum(level.lengths[tiles])
        self._tiles, self._ends = tiles, _fetch_ends(sums)
        self._fetch_of = np.full(len(level.lengths), -1, np.int32)
        self._fetch_of[tiles] = np.searchsorted(self._ends, np.arange(len(tiles)), side="right")
        self._sums = np.concatenate([[0], sums])
        self._wanted = self._sums[np.searchsorted(first[tiles], np.arange(n_boxes), side="right")]  # bytes up to a box
        self._expiring = tiles[np.argsort(self._last[tiles], kind="stable")]
        self._expired = self._position = self._asked = self._held_bytes = 0
        self._held: dict[int, bytes] = {}
        self._pending: dict[int, Future[list[bytes]]] = {}
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(FETCHES_IN_FLIGHT, thread_name_prefix="uadray-ahead")
        self._ask()

    def take(self, tile: int) -> bytes | None:
        """A file tile's bytes, waited for; None where they were not announced, or dropped for want of room.

        Raises:
            UadrayError: as `read` raised it.
        """
        with self._lock:
            fetch = int(self._fetch_of[tile])
            if fetch in self._pending:
                self._receive(fetch)
            return self._held.get(tile)

    def advance(self) -> None:
        """Say that a box has been read: file tiles that no later box touches are dropped, further ones asked for."""
        with self._lock:
            while self._expired < len(self._expiring) and self._last[self._expiring[self._expired]] <= self._position:
                self._drop(int(self._expiring[self._expired]))
                self._expired += 1
            self._position += 1
            self._ask()

    def close(self) -> None:
        """Drop everything; requests in flight end by themselves, and their bytes are not kept."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._pending.clear()
            self._held.clear()

    def _ask(self) -> None:
        """Start fetches until enough bytes are on their way."""
        while self._asked < len(self._ends) and self._position < self._n_boxes:
            begin = self._ends[self._asked - 1] if self._asked else 0
            if self._sums[begin] - self._wanted[self._position] >= AHEAD_BYTES:
                break
            tiles = self._tiles[begin : self._ends[self._asked]]
            starts = self._level.offsets[tiles]
            stops = starts + self._level.lengths[tiles]
            spans = list(zip(starts.tolist(), stops.tolist(), strict=True))
            self._pending[self._asked] = self._pool.submit(self._read, spans)
            self._asked += 1

    def _receive(self, fetch: int) -> None:
        """Wait for a fetch, and hold those of its file tiles that are still needed."""
        blobs = self._pending[fetch].result()
        del self._pending[fetch]  # only now, so that a fetch that failed fails again for whoever asks again
        begin = self._ends[fetch - 1] if fetch else 0
        for tile, blob in zip(self._tiles[begin : self._ends[fetch]].tolist(), blobs, strict=True):
            if self._last[tile] >= self._position:
                self._held[tile] = blob
                self._held_bytes += len(blob)
        if self._held_bytes > AHEAD_BYTES + KEPT_BYTES:
            self._make_room()

    def _make_room(self) -> None:
        """Drop the file tiles whose last use is furthest away; when one of them is needed, it is read once more."""
        for tile in sorted(self._held, key=lambda tile: -self._last[tile]):
            if self._held_bytes <= AHEAD_BYTES + KEPT_BYTES // 2:
                break
            self._drop(tile)

    def _drop(self, tile: int) -> None:
        self._held_bytes -= len(self._held.pop(tile, b""))


def _fetch_ends(sums: npt.NDArray[np.int64]) -> list[int]:
    """Where fetches of `FIRST_FETCH_BYTES` to `FETCH_BYTES`, or of one larger file tile, end.

    Args:
        sums: [n] bytes of all file tiles up to and with each one, in the order in which they are needed.
    """
    ends: list[int] = []
    before, size = 0, FIRST_FETCH_BYTES
    while not ends or ends[-1] < len(sums):
        begin = ends[-1] if ends else 0
        if begin >= len(sums):
            break
        ends.append(max(begin + 1, int(np.searchsorted(sums, before + size, side="right"))))
        before, size = int(sums[ends[-1] - 1]), min(2 * size, FETCH_BYTES)
    return ends


def touched_tiles(level: TiffLevel, boxes: Boxes) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Which file tiles each box touches: pairs (box, tile), sorted by box."""
    x0, y0, width, height = boxes.T
    left, top = np.maximum(x0, 0) // level.tile_px[0], np.maximum(y0, 0) // level.tile_px[1]
    right = -(-np.minimum(x0 + width, level.size_px[0]) // level.tile_px[0])  # exclusive
    bottom = -(-np.minimum(y0 + height, level.size_px[1]) // level.tile_px[1])
    across, down = np.maximum(right - left, 0), np.maximum(bottom - top, 0)
    count = across * down
    box = np.repeat(np.arange(len(boxes), dtype=np.int32), count)
    within = np.arange(len(box)) - np.repeat(np.cumsum(count) - count, count)
    row, column = np.divmod(within, across[box])
    return box, ((top[box] + row) * level.columns + left[box] + column).astype(np.int32)
