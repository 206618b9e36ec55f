"""How far a job on slides is."""

from typing import Protocol


class Progress(Protocol):
    """Takes how far a job is."""

    def __call__(self, done: int, total: int, tiles: int, note: str = "") -> None:
        """Slides done, slides in all, tiles scored in this run, and what is waited for, if anything."""
        ...
