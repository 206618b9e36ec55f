"""The slides of a run that are not known to be decided, in the order in which they came."""

import time
from collections.abc import Callable, Iterable, Iterator, MutableSet
from contextlib import suppress


class OpenSlides(MutableSet[str]):
    """A set of slide ids, each with the time at which it was put in first. One thread changes it, others may look."""

    def __init__(self, slide_ids: Iterable[str] = (), *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._since = dict.fromkeys(slide_ids, clock())

    def __contains__(self, slide_id: object) -> bool:
        """Whether a slide is open."""
        return slide_id in self._since

    def __iter__(self) -> Iterator[str]:
        """The slides, first in first."""
        return iter(self._since)

    def __len__(self) -> int:
        """How many."""
        return len(self._since)

    def add(self, value: str) -> None:
        """Put a slide in; one that is in keeps its time."""
        self._since.setdefault(value, self._clock())

    def discard(self, value: str) -> None:
        """Take a slide out."""
        self._since.pop(value, None)

    @property
    def oldest(self) -> float | None:
        """Since when the first of them is in, in seconds since 1970; None where none is."""
        with suppress(RuntimeError):  # it was changed this very moment
            return next(iter(self._since.values()), None)
        return None
