"""Slides that stay open for a while, because whoever looks at one asks for many of its tiles."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from uadray.slides.opening import open_slide
from uadray.slides.slide import Rgb, Slide
from uadray.slides.thumbnail import thumbnail
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import Stain

IDLE_S = 300.0
"""A slide that nobody has asked for so long is closed when another is: the local copy it may hold is given back."""


@dataclass(frozen=True)
class SlideRef:
    """A version of a slide.

    Attributes:
        slide_id: for errors.
        uri: where it lies.
        etag: the version that was decided about.
        mpp: micrometres per pixel of level 0 that were used then.
        has_mask: an edited mask was used.
    """

    slide_id: str
    uri: str
    etag: str
    mpp: float
    has_mask: bool = False

    @property
    def key(self) -> str:
        """Names the slide among others, so that requests for one reach the replica that has it open."""
        return f"{self.uri}#{self.etag}"


@final
class OpenSlide:
    """An open slide, which several threads read at a time, and what was worked out of all of it."""

    def __init__(self, of: SlideRef) -> None:
        self.slide: Slide = open_slide(of.uri, slide_id=of.slide_id, mpp=of.mpp, etag=of.etag)
        self._etag = of.etag
        self._lock = threading.Lock()
        self._overview: tuple[Rgb, float] | None = None
        self._stains: dict[str, Stain | None] = {}

    def overview(self) -> tuple[Rgb, float]:
        """The thumbnail and its mpp.

        Raises:
            SlideError: see `slides.thumbnail`.
        """
        with self._lock:
            if self._overview is None:
                self._overview = thumbnail(self.slide)
            return self._overview

    def stain(self, spec: TileSpec) -> Stain | None:
        """The stains of the slide, as whoever screens it plans it.

        Raises:
            SlideError: see `tiles.plan`.
        """
        key = spec.model_dump_json()
        with self._lock:
            if key not in self._stains:
                self._stains[key] = plan_slide(self.slide, etag=self._etag, spec=spec).stain
            return self._stains[key]


class _Entry:
    """A slide that is open or being opened, and how many are using it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.last_used = 0.0
        self.opened: OpenSlide | None = None

    def close(self) -> None:
        if self.opened is not None:
            self.opened.slide.close()
            self.opened = None


@final
class OpenSlides:
    """The slides used last. Safe to use from several threads.

    Args:
        most: stay open; those in use are not counted out.
        idle_s: see `IDLE_S`.
    """

    def __init__(self, *, most: int, idle_s: float = IDLE_S) -> None:
        self._most, self._idle_s = most, idle_s
        self._entries: OrderedDict[SlideRef, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def use(self, of: SlideRef) -> Iterator[OpenSlide]:
        """The slide, opened where it is not; it stays open until the block ends.

        Raises:
            SlideError: it cannot be opened, or is another version by now.
        """
        with self._lock:
            entry = self._entries.setdefault(of, _Entry())
            self._entries.move_to_end(of)
            entry.users += 1
        try:
            with entry.lock:
                if entry.opened is None:
                    entry.opened = OpenSlide(of)
                opened = entry.opened
            yield opened
        finally:
            with self._lock:
                entry.users -= 1
                entry.last_used = time.monotonic()
                unused = self._unused()
            for each in unused:
                each.close()

    def close(self) -> None:
        """Close all that nobody uses."""
        with self._lock:
            free = [self._entries.pop(of) for of in [of for of, each in self._entries.items() if not each.users]]
        for each in free:
            each.close()

    def _unused(self) -> list[_Entry]:
        """Takes out the slides that are to be closed: too many, idle, or never opened."""
        now = time.monotonic()
        gone = []
        for of, entry in list(self._entries.items()):
            is_over = len(self._entries) > self._most or now - entry.last_used > self._idle_s
            if not entry.users and (is_over or entry.opened is None):
                gone.append(self._entries.pop(of))
        return gone
