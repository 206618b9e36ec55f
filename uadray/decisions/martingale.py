"""Normal numbers and a stream of new ones -> how much evidence there is that the stream is unlike them, at each step.

The hypothesis: the n normal numbers and the stream, one after the other, are exchangeable. The claim: whatever their
distribution and however long the stream, the evidence ever reaches log10(1 / delta) with probability delta at most.

1. P-values (Vovk, Nouretdinov and Gammerman, "Testing exchangeability on-line", ICML 2003). Number k of the stream is
   ranked among the normal ones and the stream so far, N = n + k in all: p_k = (#{greater} + theta_k #{equal}) / N. It
   is equal to itself, and theta_k is uniform on (0, 1). Given which numbers the first N are, but not in what order,
   each of them is equally likely to be the last, so p_k is uniform. This stays so when all that came later is known
   besides, and the later p-values are functions of just that: they are independent, and uniform, exactly.
2. Wealth (Vovk et al., "Retrain or not retrain: conformal test martingales for change-point detection", COPA 2021).
   Who starts with 1 and multiplies it by f_k(p_k), where f_k >= 0 integrates to 1 and is chosen before p_k is known,
   has a martingale. So has who divides the 1 among several such players. It is never started again.
3. Ville's inequality: a martingale >= 0 that starts at 1 ever reaches 1 / delta with probability delta at most.

The players differ in when they start (before it they keep their share) and in what they expect from then on: that the
new numbers are those of a normal distribution that has moved up or down by so many deviations. Let w be the share of
the N numbers that came since the start, the last one counted, and G(s) the share of moved numbers expected among the
highest s of the others. The whole is then a mixture, (1 - w) s + w G(s) of which are as high, and the density of p at
that place is g / (1 - w + w g), which integrates to 1. G is taken as linear between a few knots. The bets fade by
themselves as the stream takes over the ranks that it is compared with, and the wealth stays. If the numbers are not
normal at all, bets are worse, and the claim holds all the same.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

DEVIATIONS = {0.8: 0.1, 1.5: 0.3, 3.5: 0.1}
"""By how much the players expect numbers to have moved, and what share of the players does for each of both directions.
Chosen of some thirty on simulated streams (seeds 1 and 2), for shifts of 0.7 to 4 deviations, at once, late and slow:
others find some of these up to 3 numbers sooner and another 3 to 50 later."""

KNOTS = (0.0, 0.01, 0.04, 0.1, 0.2, 0.35, 0.55, 0.8, 1.0)
"""Shares of the normal numbers, from the highest, between which G is linear."""

UNMOVED = 0.05
"""The share of G that stays as it was, so that no number costs a player more than a factor of 20."""

HORIZON = 64
"""A player bets on so many numbers from its start, and then keeps what it has."""

AT_ONCE = 0.5
"""The share of those who start with the first number of the stream."""

PATIENCE = 100.0
"""Of the others a share (1 + j / PATIENCE) ** -0.5 has not yet started after j further numbers: few start at any one,
and some are left however long the stream."""

_CHUNK = 512


@dataclass(frozen=True)
class Change:
    """What the richest player has bet on.

    Attributes:
        start: the number of the stream with which it began, from 0.
        direction: where the numbers went.
    """

    start: int
    direction: Literal["higher", "lower"]


def p_values(stream: Numbers, normals: Numbers, ties: Numbers) -> Numbers:
    """Conformal p-value of each number of a stream, [k]; small for a high one.

    >>> p_values(np.array([5.0, 5.0]), np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.5])).tolist()
    [0.125, 0.2]

    Args:
        stream: [k], finite, in the order in which they came.
        normals: [n], finite, in any order; may be empty.
        ties: [k], uniform on (0, 1), independent of all numbers.
    """
    seen, p = np.sort(normals), np.empty(len(stream))
    for first in range(0, len(stream), _CHUNK):
        chunk = stream[first : first + _CHUNK]
        before = np.tri(len(chunk), k=-1, dtype=np.bool_)
        upto = np.searchsorted(seen, chunk, "right")
        greater = len(seen) - upto + (before & (chunk > chunk[:, None])).sum(1)
        equal = 1 + upto - np.searchsorted(seen, chunk, "left") + (before & (chunk == chunk[:, None])).sum(1)
        p[first : first + _CHUNK] = (greater + ties[first : first + _CHUNK] * equal) / (
            len(seen) + 1 + np.arange(len(chunk))
        )
        ordered = np.sort(chunk)
        seen = np.insert(seen, np.searchsorted(seen, ordered), ordered)
    return p


def evidence(p: Numbers, n_normals: int) -> Numbers:
    """log10 of the wealth of all players together after each p-value, [k]; what comes later changes none of them.

    Args:
        p: [k], of `p_values`.
        n_normals: how many normal numbers these were made with.
    """
    totals = [_play(side, n_normals, moved)[0] + share for side, _ in _sides(p) for moved, share in _PLAYERS]
    return np.asarray(np.logaddexp.reduce(totals, axis=0) / np.log(10))


def change(p: Numbers, n_normals: int) -> Change:
    """What the richest player has bet on, at the end of these p-values, of which there is at least one."""
    best = [(_play(side, n_normals, moved)[1] + share, name) for side, name in _sides(p) for moved, share in _PLAYERS]
    wealth, direction = max(best, key=lambda player: float(player[0].max()))
    return Change(int(wealth.argmax()), direction)


def _sides(p: Numbers) -> tuple[tuple[Numbers, Literal["higher"]], tuple[Numbers, Literal["lower"]]]:
    return (p, "higher"), (1 - p, "lower")


def _moved_shares(deviations: float) -> Numbers:
    """How many times as many numbers as before lie between each two knots if they have moved up."""
    normal = NormalDist()
    moved = [0.0, *(normal.cdf(normal.inv_cdf(s) + deviations) for s in KNOTS[1:-1]), 1.0]
    return np.asarray(UNMOVED + (1 - UNMOVED) * np.diff(moved) / np.diff(KNOTS))


_PLAYERS = tuple((_moved_shares(deviations), math.log(share)) for deviations, share in DEVIATIONS.items())
"""What the players expect, and the log of their share."""


def _play(p: Numbers, n_normals: int, moved: Numbers) -> tuple[Numbers, Numbers]:
    """Log wealth of all players of one kind after each p-value, [k]; and at the end of each by its start, [k].

    Args:
        p: [k], small where numbers are as they expect.
        n_normals: the normal numbers.
        moved: what they expect, of `_moved_shares`.
    """
    waiting, wealth = _shares(len(p))
    total = waiting
    expected = np.concatenate([[0.0], np.cumsum(moved * np.diff(KNOTS))])
    n_all = n_normals + 1.0 + np.arange(len(p))
    for age in range(min(HORIZON, len(p))):  # players that have bet `age` times, all at once
        new = (age + 1) / n_all[age:]
        place = np.zeros(len(new), np.int64)
        for knot, share in zip(KNOTS[1:-1], expected[1:-1], strict=True):
            place += p[age:] >= knot + new * (share - knot)
        density = moved[place]
        wealth[: len(new)] += np.log(density / (1 + new * (density - 1)))
        total[age:] = np.logaddexp(total[age:], wealth[: len(new)])
    if len(p) > HORIZON:
        total[HORIZON:] = np.logaddexp(total[HORIZON:], np.logaddexp.accumulate(wealth[: len(p) - HORIZON]))
    return total, wealth


def _shares(length: int) -> tuple[Numbers, Numbers]:
    """Logs of the share that has not started after each number, [k], and of that which starts with each, [k]."""
    left = (1 - AT_ONCE) * (1 + np.arange(float(length)) / PATIENCE) ** -0.5
    begun = np.concatenate([[AT_ONCE], left[:-1] - left[1:]])[:length]
    return np.log(left), np.log(begun)
