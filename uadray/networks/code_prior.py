"""How probable a grid of codes is: a causal transformer over its positions, row by row.

The VQ-VAE's prior is any autoregressive model (van den Oord et al. 2017, https://arxiv.org/abs/1711.00937, section
3.3). Here a decoder as in Radford et al. 2019 (GPT-2): learned embeddings of code and position, blocks that normalise
first, self-attention that looks at earlier positions alone.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

WIDER = 4
"""Times the width, inside the feed-forward layers (Vaswani et al. 2017, section 3.3)."""

START_STD = 0.02
"""Of all weights at the start (Radford et al. 2018, section 4.1)."""


class Seen(NamedTuple):
    """Keys and values of the positions so far, of one block: [n, heads, positions, width / heads] each."""

    keys: Tensor
    values: Tensor


class Block(nn.Module):
    """Attention to earlier positions, then a feed-forward network at each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, WIDER * width), nn.GELU(), nn.Linear(WIDER * width, width))

    def forward(self, h: Float[Tensor, "n p w"]) -> Float[Tensor, "n p w"]:
        """The whole sequence at once."""
        q, k, v = self._heads(h)
        return self._fed(h, F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def next(self, h: Float[Tensor, "n 1 w"], seen: Seen, position: int) -> Float[Tensor, "n 1 w"]:
        """One position; its key and value are written into `seen`, whose earlier ones are there."""
        q, k, v = self._heads(h)
        seen.keys[:, :, position], seen.values[:, :, position] = k[:, :, 0], v[:, :, 0]
        upto = slice(position + 1)
        return self._fed(h, F.scaled_dot_product_attention(q, seen.keys[:, :, upto], seen.values[:, :, upto]))

    def _heads(self, h: Tensor) -> list[Tensor]:
        n, p, width = h.shape
        qkv = self.to_qkv(self.norm1(h)).view(n, p, 3, self.heads, width // self.heads)
        return [part.transpose(1, 2) for part in qkv.unbind(2)]  # [n, heads, p, width / heads] each

    def _fed(self, h: Tensor, attended: Tensor) -> Tensor:
        h = h + self.to_out(attended.transpose(1, 2).flatten(2))
        total: Tensor = h + self.feed(self.norm2(h))
        return total


class CodePrior(nn.Module):
    """P(codes) = product over positions of p(code | codes before it).

    Args:
        codes: how many there are.
        positions: of a grid, h * w.
        width: of the embeddings.
        layers: blocks.
        heads: of attention, a divisor of `width`.
    """

    def __init__(self, *, codes: int, positions: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.codes, self.positions, self.width, self.heads = codes, positions, width, heads
        self.of_code = nn.Embedding(codes + 1, width)  # the last one stands before the first position
        self.of_position = nn.Parameter(torch.zeros(positions, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.to_logits = nn.LayerNorm(width), nn.Linear(width, codes)
        self.apply(_start)
        nn.init.normal_(self.of_position, std=START_STD)

    def forward(self, codes: Int[Tensor, "n p"]) -> Float[Tensor, "n p k"]:
        """Logits at each position, of codes before it alone."""
        before = torch.cat([codes.new_full((len(codes), 1), self.codes), codes[:, :-1]], 1)
        h = self.of_code(before) + self.of_position
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.to_logits(self.norm(h))
        return logits

    def nll(self, codes: Int[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        """Negative log-likelihood of each code given those before it, in nats; its sum is that of the grid."""
        return F.cross_entropy(self(codes).float().transpose(1, 2), codes, reduction="none")

    def empty(self, n: int) -> list[Seen]:
        """Room for the keys and values of n sequences."""
        shape = (n, self.heads, self.positions, self.width // self.heads)
        new = self.of_position.new_zeros
        return [Seen(new(shape), new(shape)) for _ in self.blocks]

    def next_logits(self, before: Int[Tensor, " n"], seen: list[Seen], position: int) -> Float[Tensor, "n k"]:
        """Logits at one position, as `forward` gives them.

        Args:
            before: the code before it; `codes` at the first position.
            seen: of the positions before; that of `before` is added.
            position: from 0, called in order.
        """
        h = (self.of_code(before) + self.of_position[position])[:, None]  # [n, 1, width]
        for block, each in zip(self.blocks, seen, strict=True):
            h = block.next(h, each, position)  # type: ignore[operator]  # a Block
        logits: Tensor = self.to_logits(self.norm(h[:, 0]))
        return logits

    def restored(
        self, codes: Int[Tensor, "n p"], uniforms: Float[Tensor, "n p"], *, threshold: float | Tensor
    ) -> Int[Tensor, "n p"]:
        """Codes in which improbable ones are drawn anew (Marimont and Tarroni 2020, https://arxiv.org/abs/2012.06765).

        Position by position: a code whose NLL, given the restored codes before it, is above the threshold is replaced
        by a draw of the prior.

        Args:
            codes: of the tiles.
            uniforms: in [0, 1), by which codes are drawn; the same ones give the same codes.
            threshold: in nats.
        """
        seen, found = self.empty(len(codes)), codes.clone()
        before = codes.new_full((len(codes),), self.codes)
        for position in range(codes.shape[1]):
            log_p = self.next_logits(before, seen, position).float().log_softmax(1)
            own = codes[:, position]
            is_improbable = -log_p.gather(1, own[:, None])[:, 0] > threshold
            before = torch.where(is_improbable, drawn_code(log_p, uniforms[:, position]), own)
            found[:, position] = before
        return found


def drawn_code(log_p: Float[Tensor, "n k"], uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The code at which the cumulated probability passes a number in [0, 1)."""
    cumulated = log_p.exp().cumsum(1)
    drawn = (cumulated <= (uniform * cumulated[:, -1])[:, None]).sum(1)
    return drawn.clamp_max(log_p.shape[1] - 1)


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=START_STD)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
