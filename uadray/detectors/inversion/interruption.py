"""Looks at a search for latents from outside, between its steps: how far it is, and whether it is to end.

A search takes seconds or minutes for a batch of tiles, and its caller may not want it any longer: a request has timed
out, or its sender has gone. The search calls `between_steps`; who calls the detector says what is done there:

    with looked_at(look):
        detector(tiles)    # calls look(share) after each step, in this thread; what it raises ends the search

Without a look nothing happens, and it costs a third of a microsecond a step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Look = Callable[[float], None]
"""Is told the share of the steps of this batch that are done, in (0, 1]; raises to end the search."""

_look: ContextVar[Look | None] = ContextVar("uadray_look", default=None)


def between_steps(share: float) -> None:
    """To be called after each step of a search.

    Args:
        share: of the steps of this batch, all restarts together, that are done.
    """
    look = _look.get()
    if look is not None:
        look(share)


@contextmanager
def looked_at(look: Look) -> Iterator[None]:
    """Have searches within the block, in this thread, call `look` after each step."""
    token = _look.set(look)
    try:
        yield
    finally:
        _look.reset(token)
