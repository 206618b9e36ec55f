"""Which configuration would be chosen with other anomalies: from scores that are kept, over random draws of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from uadray.bench.tune_grid import TUMOUR, Point
from uadray.reports.page import template

NUMBERS, OF_KINDS = (1, 5, 20, 100), (1, 2, 3)
DRAWS = 400
WITHIN = 0.02
"""AUROC on valid that a choice may be behind the best of the grid: the goal."""

WIDTH_PX, HEIGHT_PX = 520, 320
COLOURS = ("#1f5f8b", "#2e7d32", "#a8230f", "#1a2027")
AS_THEY_COME = 0
"""The number of kinds that stands for tumour tiles as they come."""


def figure(points: Sequence[Point], kinds: Sequence[str], *, seed: int = 0) -> list[dict[str, Any]]:
    """For each number and number of kinds of anomalies, the AUROC on valid of what is chosen with them.

    Args:
        points: of the grid.
        kinds: of each anomaly.
        seed: of the draws.

    Returns:
        `n`, `kinds` (narrow ones; 0: tumour tiles as they come), mean and deviation of the AUROC on valid, its 10 %
        quantile, and the share of draws whose choice is at most `WITHIN` behind the best.
    """
    above = np.stack([point.above for point in points])
    valid = np.array([point.valid_auroc for point in points])
    narrow, numbers = np.array(sorted({*kinds} - {TUMOUR})), np.arange(len(kinds))
    rows = []
    for n_kinds in (*OF_KINDS, AS_THEY_COME):
        names = narrow if n_kinds else np.array([TUMOUR])
        for n in (n for n in NUMBERS if n >= n_kinds):
            rng = np.random.default_rng([seed, n, n_kinds])
            draws = [drawn(rng, np.array(kinds), numbers, names, n, n_kinds or 1) for _ in range(DRAWS)]
            chosen = valid[[int(above[:, draw].mean(1).argmax()) for draw in draws]]
            rows.append(
                {
                    "n": n, "kinds": n_kinds, "auroc": float(chosen.mean()), "sd": float(chosen.std()),
                    "low": float(np.quantile(chosen, 0.1)), "within": float((valid.max() - chosen <= WITHIN).mean()),
                }
            )  # fmt: skip
    return rows


def drawn(
    rng: np.random.Generator, kinds: npt.NDArray[np.str_], numbers: npt.NDArray[np.int64],
    names: npt.NDArray[np.str_], n: int, n_kinds: int,
) -> list[int]:  # fmt: skip
    """Numbers of `n` anomalies, as evenly as can be of `n_kinds` kinds."""
    queues = [rng.permutation(numbers[kinds == kind]).tolist() for kind in rng.choice(names, n_kinds, replace=False)]
    chosen: list[int] = []
    while len(chosen) < n and any(queues):
        chosen += [queue.pop() for queue in queues if queue]
    return chosen[:n]


def without_anomalies(points: Sequence[Point]) -> Point:
    """The point whose held-out normal tiles score lowest."""
    return min(points, key=lambda point: point.criterion)


def figure_svg(points: Sequence[Point], rows: Sequence[dict[str, Any]]) -> str:
    """The figure: AUROC on valid against the number of anomalies, a line for each number of kinds."""
    valid = [point.valid_auroc for point in points]
    levels = {
        "best of the grid": max(valid), "chosen at random": float(np.mean(valid)),
        "chosen without anomalies": without_anomalies(points).valid_auroc,
    }  # fmt: skip
    low = min(*levels.values(), *(row["low"] for row in rows)) - 0.01
    high = max(valid) + 0.01
    lines = [
        {
            "colour": COLOURS[i], "name": f"{kinds} narrow kind{'s' if kinds > 1 else ''}" if kinds else "tumour tiles",
            "points": [_place(row, low, high, i) for row in rows if row["kinds"] == kinds],
        }
        for i, kinds in enumerate((*OF_KINDS, AS_THEY_COME))
    ]  # fmt: skip
    return template("tune_figure.svg").render(
        width=WIDTH_PX, height=HEIGHT_PX, lines=lines, numbers=[(_x(n), n) for n in NUMBERS],
        levels=[(_y(value, low, high), f"{name} {value:.3f}") for name, value in levels.items()],
        ticks=[(_y(value, low, high), f"{value:.2f}") for value in np.arange(np.ceil(low * 20) / 20, high, 0.05)],
    )  # fmt: skip


def _place(row: dict[str, Any], low: float, high: float, shifted: int) -> dict[str, float]:
    """Of a row, in pixels; lines of several kinds stand a little beside each other."""
    y = {name: _y(row[name], low, high) for name in ("auroc", "low")}
    return {"x": _x(row["n"]) + 4 * (shifted - 1), "y": y["auroc"], "low": y["low"]}


def _x(n: int) -> float:
    """Along the logarithm of the number."""
    return round(float(WIDTH_PX * (0.06 + 0.88 * np.log(n) / np.log(NUMBERS[-1]))), 1)


def _y(value: float, low: float, high: float) -> float:
    return round(HEIGHT_PX * (1 - (float(value) - low) / (high - low)), 1)
