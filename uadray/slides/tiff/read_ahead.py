"""Fetches tiles from S3 in the order in which they will be wanted, some megabytes before they are.

The plan is made once from the announced boxes: each file tile is fetched with the window in which it is first wanted
and kept, still encoded, until the last box that touches it has been read. Windows are read by `storage.read_ranges`,
which sorts by place in the file, joins gaps up to 64 KiB into reads of at most 8 MiB, and has 32 requests in flight.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from uadray.slides.slide import Boxes
from uadray.slides.tiff.byte_source import Span
from uadray.slides.tiff.level_tiles import TiffLevel

FIRST_WINDOW_BYTES, WINDOW_BYTES = 2**20, 8 * 2**20
"""Encoded bytes that are asked for together, so that gaps can be joined: some 70 tiles first, to be decoded while
others are still on their way; each window has twice the bytes of the one before. One request of 8 MiB takes a third
less of a server's processor than eight of one, and a tenth less of ours."""

AHEAD_BYTES = 32 * 2**20
"""Encoded bytes that are asked for before they are wanted: more than a second of decoding."""

KEPT_BYTES = 64 * 2**20
"""Encoded bytes that are kept for a second use at the most: the file tiles under a border of two columns of tiles."""

WINDOWS_IN_FLIGHT = 16

Read = Callable[[Sequence[Span]], list[bytes]]


class Plan:
    """What will be read: boxes of one level, in this order and by one thread. Knows what will be needed again.

    Attributes:
        level: number of the level.
        n_boxes: how many boxes.
        position: boxes that have been read.
        ahead: what fetches their bytes; None where they are read from a disk when they are wanted.
    """

    def __init__(self, number: int, level: TiffLevel, boxes: Boxes, read: Read | None) -> None:
        box, tile = touched_tiles(level, boxes)
        self.level, self.n_boxes, self.position = number, len(boxes), 0
        self._boxes = boxes
        self._uses = np.bincount(tile, minlength=len(level.lengths)).astype(np.int32)
        self.ahead = ReadAhead(read, level, len(boxes), box, tile) if read else None

    def is_next(self, level: int, box: tuple[int, int, int, int]) -> bool:
        """Whether this is the box whose turn it is."""
        return level == self.level and self.position < self.n_boxes and self._boxes[self.position].tolist() == list(box)

    def use(self, tile: int) -> bool:
        """Count one use of a file tile in the box whose turn it is; tells whether there will be another."""
        self._uses[tile] -= 1
        return bool(self._uses[tile] > 0)

    def advance(self) -> None:
        """The box has been read."""
        self.position += 1
        if self.ahead:
            self.ahead.advance()

    def close(self) -> None:
        """Forget it."""
        if self.ahead:
            self.ahead.close()


class ReadAhead:
    """Fetches the tiles of a plan.

    Args:
        read: gives the bytes of spans; called in threads of its own.
        level: where the tiles lie.
        n_boxes: boxes of the plan.
        box: with `tile`, which file tiles each box touches, see `touched_tiles`.
        tile: see there.
    """

    def __init__(
        self, read: Read, level: TiffLevel, n_boxes: int, box: npt.NDArray[np.int32], tile: npt.NDArray[np.int32]
    ) -> None:
        self._read, self._level, self._n_boxes = read, level, n_boxes
        first, self._last = np.full((2, len(level.lengths)), -1, np.int32)
        first[tile[::-1]], self._last[tile] = box[::-1], box  # of repeated indices the last one stays
        tiles = np.flatnonzero((first >= 0) & (level.lengths > 0))
        tiles = tiles[np.argsort(first[tiles], kind="stable")]
        sums = np.cumsum(level.lengths[tiles])
        self._tiles, self._ends = tiles, _window_ends(sums)
        self._window = np.full(len(level.lengths), -1, np.int32)
        self._window[tiles] = np.searchsorted(self._ends, np.arange(len(tiles)), side="right")
        self._sums = np.concatenate([[0], sums])
        self._wanted = self._sums[np.searchsorted(first[tiles], np.arange(n_boxes), side="right")]  # up to each box
        self._expiring = tiles[np.argsort(self._last[tiles], kind="stable")]
        self._expired = self._position = self._asked = self._held_bytes = 0
        self._held: dict[int, bytes] = {}
        self._pending: dict[int, Future[list[bytes]]] = {}
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(WINDOWS_IN_FLIGHT, thread_name_prefix="uadray-ahead")
        self._ask()

    def take(self, tile: int) -> bytes | None:
        """A tile's bytes, waited for; None where they are not in the plan, or dropped for want of room.

        Raises:
            UadrayError: as `storage.read_ranges` raised it.
        """
        with self._lock:
            window = int(self._window[tile])
            if window in self._pending:
                self._receive(window)
            return self._held.get(tile)

    def advance(self) -> None:
        """A box has been read: tiles that no later box touches are dropped, further ones asked for."""
        with self._lock:
            while self._expired < len(self._expiring) and self._last[self._expiring[self._expired]] <= self._position:
                self._drop(int(self._expiring[self._expired]))
                self._expired += 1
            self._position += 1
            self._ask()

    def close(self) -> None:
        """Drop all; requests in flight end by themselves and are forgotten."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._pending.clear()
            self._held.clear()

    def _ask(self) -> None:
        """Send off windows until enough is on the way."""
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

    def _receive(self, window: int) -> None:
        blobs = self._pending[window].result()
        del self._pending[window]  # only now: one that failed fails whoever asks again
        begin = self._ends[window - 1] if window else 0
        for tile, blob in zip(self._tiles[begin : self._ends[window]].tolist(), blobs, strict=True):
            if self._last[tile] >= self._position:
                self._held[tile] = blob
                self._held_bytes += len(blob)
        if self._held_bytes > AHEAD_BYTES + KEPT_BYTES:
            self._make_room()

    def _make_room(self) -> None:
        """Drop the tiles whose last use is furthest away; whoever wants one then has to read it once more."""
        for tile in sorted(self._held, key=lambda tile: -self._last[tile]):
            if self._held_bytes <= AHEAD_BYTES + KEPT_BYTES // 2:
                break
            self._drop(tile)

    def _drop(self, tile: int) -> None:
        self._held_bytes -= len(self._held.pop(tile, b""))


def _window_ends(sums: npt.NDArray[np.int64]) -> list[int]:
    """Where windows of `FIRST_WINDOW_BYTES` to `WINDOW_BYTES`, or of one tile that is larger, end."""
    ends: list[int] = []
    before, size = 0, FIRST_WINDOW_BYTES
    while not ends or ends[-1] < len(sums):
        begin = ends[-1] if ends else 0
        if begin >= len(sums):
            break
        ends.append(max(begin + 1, int(np.searchsorted(sums, before + size, side="right"))))
        before, size = int(sums[ends[-1] - 1]), min(2 * size, WINDOW_BYTES)
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
