"""What the readers of a training are at, and what they could not read: kept by the driver's side, told by the readers.

A reader whose process dies can tell nobody what it died over, and Ray starts it again. So a read task says what it is
about to read. Where its predecessor died, everything it was at is read one by one; what was read alone when a process
died over it again is left out from then on. Plain Python; on Ray it lives in an actor.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

CRASHES = 2
"""Processes that may die over one name, the last one with nothing else open."""


class Notes(Protocol):
    """What a reader needs of a journal, wherever that is; see `Journal`."""

    def start(self, task: int) -> None:
        """A read task begins."""
        ...

    def groups(self, names: Sequence[str]) -> list[list[str]]:
        """What to read together."""
        ...

    def begin(self, task: int, names: list[str]) -> None:
        """It is about to read these."""
        ...

    def end(self, task: int) -> None:
        """A read task has ended."""
        ...

    def note(self, name: str, why: str) -> None:
        """`name` gave no tiles."""
        ...


class Journal:
    """Names are those of slides, or of files of a tile set."""

    def __init__(self) -> None:
        self._at: dict[int, list[str]] = {}  # task -> what it reads now
        self._furthest = 0
        self._deaths: Counter[str] = Counter()
        self._crashed: set[str] = set()
        self._told: dict[str, str] = {}
        self._new: list[tuple[str, str]] = []

    def start(self, task: int) -> None:
        """A read task begins; where it began before and did not end, its process has died."""
        self._furthest = max(self._furthest, task)
        names = self._at.pop(task, [])
        self._deaths.update(names)
        if len(names) == 1 and self._deaths[names[0]] >= CRASHES:
            self._crashed.add(names[0])
            self.note(names[0], f"crashed: {CRASHES} processes died while they read it")

    def groups(self, names: Sequence[str]) -> list[list[str]]:
        """Which of `names` to read together: what a process may have died over alone, what it did die over not."""
        left = [name for name in dict.fromkeys(names) if name not in self._crashed]
        rest = [name for name in left if not self._deaths[name]]
        return [[name] for name in left if self._deaths[name]] + ([rest] if rest else [])

    def begin(self, task: int, names: list[str]) -> None:
        """A task is about to read these; what it read before has harmed nobody."""
        self.end(task)
        self._at[task] = names

    def end(self, task: int) -> None:
        """A task has ended, or failed in a way that it could tell."""
        for name in self._at.pop(task, []):
            del self._deaths[name]

    def note(self, name: str, why: str) -> None:
        """`name` gave no tiles; it is told once."""
        if name not in self._told:
            self._told[name] = why
            self._new.append((name, why))

    def furthest(self) -> int:
        """The highest number of a task that has begun."""
        return self._furthest

    def take(self) -> list[tuple[str, str]]:
        """Names and reasons that are new since the last call."""
        new, self._new = self._new, []
        return new
