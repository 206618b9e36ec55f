"""A bounded sample of all vectors that a training has seen, each with the same chance; and a coreset of it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from uadray.detectors.trainee import UnsuitableTilesError

PROJECTED = 128
"""Dimensions in which a coreset is chosen: PatchCore's random projection (Johnson and Lindenstrauss 1984)."""


class Reservoir(nn.Module):
    """The rows with the lowest random keys among all rows seen: a sample without replacement, of at most its size.

    Attributes of the state:
        rows: [capacity, d] float32.
        keys: [capacity], infinite where there is no row.
    """

    rows: Tensor
    keys: Tensor

    def __init__(self, capacity: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(capacity, channels))
        self.register_buffer("keys", torch.full((capacity,), torch.inf, dtype=torch.float64))

    def add(self, rows: Float[Tensor, "m d"]) -> None:
        """See rows; which of them are kept follows from torch's random numbers."""
        capacity = len(self.keys)
        keys = torch.cat([self.keys, torch.rand(len(rows), dtype=torch.float64, device=rows.device)])
        is_kept = torch.zeros(len(keys), dtype=torch.bool, device=rows.device)
        is_kept[keys.topk(capacity, largest=False).indices] = True
        left, came = (~is_kept[:capacity]).nonzero()[:, 0], is_kept[capacity:].nonzero()[:, 0]
        self.rows[left] = rows[came].to(self.rows.dtype)
        self.keys[left] = keys[capacity + came]

    def filled(self) -> Float[Tensor, "m d"]:
        """The rows that there are."""
        return self.rows[self.keys.isfinite()]

    def at_least(self, least: int) -> Float[Tensor, "m d"]:
        """The rows that there are.

        Raises:
            UnsuitableTilesError: fewer than `least`.
        """
        rows = self.filled()
        if len(rows) < least:
            raise UnsuitableTilesError(f"{len(rows)} vectors of features were seen, {least} are needed; train longer")
        return rows


def coreset(rows: Float[Tensor, "m d"], size: int) -> Int[Tensor, " k"]:
    """Numbers of rows from which no row is far: greedy k-centre (Sener and Savarese 2018, algorithm 1).

    Each is the row that lies furthest from all chosen before it; the first is row 0. As in PatchCore, of more than
    `PROJECTED` dimensions distances are those of a random projection.
    """
    if rows.shape[1] > PROJECTED:
        rows = rows @ torch.randn(rows.shape[1], PROJECTED, device=rows.device) / PROJECTED**0.5
    chosen = torch.zeros(size, dtype=torch.int64, device=rows.device)
    far = (rows - rows[0]).square().sum(1)
    for number in range(1, size):
        chosen[number] = far.argmax()
        far = far.minimum((rows - rows[chosen[number]]).square().sum(1))
    return chosen
