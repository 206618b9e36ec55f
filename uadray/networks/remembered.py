"""What frozen networks made of the inputs of one batch, kept for the next detector that asks for the same.

Detectors that stand on one backbone and look at the same tiles compute its features once: a `Memory` is entered for
each batch (`with memory.batch():`), and within it a network that gets an input which another with the same weights has
had goes on where that one stopped. Weights are compared by digests, up to the layer in question, so that networks that
end at different layers share what they have in common; inputs are compared by their values, since each detector makes
its own of the tiles. Numbers are the same to the bit: what is computed is computed by the same operations.

Without an entered memory nothing is kept, compared or digested.
"""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

MOST_INPUTS = 3
"""Inputs of a batch whose features are kept, the last ones: those of tiles, and of the pictures that are compared with
them. Feature maps are large: `relu1_2` of VGG takes 1 MB for a tile of 64 px."""


class Trunk(Protocol):
    """A network that runs position by position.

    Attributes:
        taps: positions whose outputs are its feature maps.
    """

    taps: tuple[int, ...]

    def start(self, x: Tensor) -> Tensor:
        """What stands before the first position."""
        ...

    def advance(self, y: Tensor, position: int) -> Tensor:
        """One position further."""
        ...

    def weights_at(self, position: int) -> Mapping[str, Tensor]:
        """Its weights at a position; at -1 those of `start`."""
        ...


class Memory:
    """Which feature maps several detectors ask for.

    Attributes:
        hits: so often features were there already.
    """

    def __init__(self) -> None:
        self.hits = 0
        self.taps: set[int] = set()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Within it features are remembered, in this thread; forgotten at its end. Within another it does nothing."""
        if _here.memory is not None:
            yield
            return
        _here.memory, _here.inputs = self, []
        try:
            yield
        finally:
            _here.memory, _here.inputs = None, []


class _Here(threading.local):
    """The memory that this thread has entered, and the inputs of its batch, the last one used at the end."""

    memory: Memory | None = None
    inputs: "list[_Input]"


_here = _Here()


def maps_of(trunk: Trunk, x: Tensor) -> list[Tensor]:
    """The feature maps of x, one a tap; what is remembered of it is not computed again."""
    if torch.compiler.is_compiling():  # what remembers cannot be traced
        return plainly_computed(trunk, x)
    memory = _here.memory
    if memory is None or torch.is_grad_enabled():
        return plainly_computed(trunk, x)
    memory.taps.update(trunk.taps)
    digests = digests_of(trunk)
    known = next((each for each in _here.inputs if each.is_for(trunk, x, digests)), None)
    memory.hits += known is not None
    if known is None:
        known = _Input(x)
    others = [each for each in _here.inputs if each is not known]
    _here.inputs = [*others[1 - MOST_INPUTS :], known]
    return known.maps(trunk, digests, memory.taps)


def plainly_computed(trunk: Trunk, x: Tensor) -> list[Tensor]:
    """The feature maps of x, one a tap."""
    y, kept = trunk.start(x), dict[int, Tensor]()
    for position in range(max(trunk.taps) + 1):
        y = trunk.advance(y, position)
        if position in trunk.taps:
            kept[position] = y
    return [kept[tap] for tap in trunk.taps]


class _Input:
    """An input, and what has been made of it."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.y, self.reached = x, x, -2
        self.digests: tuple[str, ...] = ()
        self.kept: dict[int, Tensor] = {}
        self.precision = _precision(x)

    def is_for(self, trunk: Trunk, x: Tensor, digests: tuple[str, ...]) -> bool:
        """Whether these are the features of x by this network, as far as both go."""
        shared = min(self.reached, max(trunk.taps)) + 2
        same_network = self.digests[:shared] == digests[:shared] and self.precision == _precision(x)
        has_all = all(tap in self.kept for tap in trunk.taps if tap <= self.reached)
        same_kind = (self.x.shape, self.x.dtype, self.x.device) == (x.shape, x.dtype, x.device)
        return same_network and has_all and same_kind and (self.x is x or torch.equal(self.x, x))

    def maps(self, trunk: Trunk, digests: tuple[str, ...], wanted: set[int]) -> list[Tensor]:
        """The network's maps, from where the last one stopped."""
        for position in range(self.reached + 1, max(trunk.taps) + 1):
            self.y = trunk.start(self.x) if position < 0 else trunk.advance(self.y, position)
            if position in wanted:
                self.kept[position] = self.y
            self.reached = position
        self.digests = max(self.digests, digests[: self.reached + 2], key=len)
        return [self.kept[tap] for tap in trunk.taps]


def _precision(x: Tensor) -> torch.dtype | None:
    """What is computed in under autocast; None without it."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def digests_of(trunk: Trunk) -> tuple[str, ...]:
    """SHA-256 of the weights up to each position, the start first; told once, for a frozen network."""
    known: tuple[str, ...] | None = getattr(trunk, "_digests", None)
    if known is None:
        digest, found = hashlib.sha256(type(trunk).__name__.encode()), list[str]()
        for position in range(-1, max(trunk.taps) + 1):
            for name, tensor in sorted(trunk.weights_at(position).items()):
                digest.update(f"{position} {name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            found.append(digest.hexdigest())
        known = tuple(found)
        trunk._digests = known  # type: ignore[attr-defined]  # of the object, so that both go together
    return known
