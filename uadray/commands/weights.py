"""`uadray weights`: the pinned backbone weights and their state in this machine's cache."""

from collections.abc import Iterator, Sequence

from uadray.networks import weights


def pull(names: Sequence[str], *, mirror: str | None) -> dict[str, str]:
    """Fetch weights into the cache; returns the path of each."""
    return {name: str(weights.pull(name, mirror=mirror)) for name in names}


def verify(names: Sequence[str]) -> tuple[dict[str, str], bool]:
    """The state of each cached file, of all known weights where none is named, and whether that is as it should be.

    A corrupt file never is; one that is missing is a fault only where it was named.
    """
    states = {name: str(weights.verify(name)) for name in names or [entry.name for entry in weights.registry()]}
    is_good = "corrupt" not in states.values() and not (names and "missing" in states.values())
    return states, is_good


def listing() -> Iterator[str]:
    """A line for each of the known weights: name, size, state and licence."""
    for entry in weights.registry():
        yield f"{entry.name:20} {entry.size_bytes / 1e6:8.1f} MB  {weights.verify(entry.name):9} {entry.licence}"
