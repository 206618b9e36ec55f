"""Batches of several streams, joined: a training on tiles of several labels has a stream for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Where several streams stand, for a checkpoint.

    Attributes:
        places: of each, in their order.
    """

    places: tuple[Any, ...] = ()


class Joined(Iterator[Tensor]):
    """X [batch, 3, side, side]: the next batch of each stream, one after the other.

    Attributes:
        streams: which.
    """

    def __init__(self, streams: Sequence[Iterator[Tensor]]) -> None:
        self.streams = tuple(streams)

    @property
    def place(self) -> Places:
        """Of the next tiles; of streams that have a place."""
        return Places(tuple(getattr(stream, "place", None) for stream in self.streams))

    def __next__(self) -> Tensor:
        return torch.cat([next(stream) for stream in self.streams])
