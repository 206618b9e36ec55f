"""What the rows of mappings over generators say together: which reconstructs normals best, and whether that detects.

Rows are compared that one bench has made: tiles of one size, the same tiles of valid (or every so-many-th of them), and
one distance, LPIPS on AlexNet. Lower LPIPS is a better reconstruction. Rows share generators and tiles, so that a
p-value that takes them for independent, as Spearman's does, is too small.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy.stats import spearmanr

from uadray.bench.detector_results import Figures, figure
from uadray.evaluation.intervals import Z95

LPIPS, RATIO, AUROC = "pictures.normal.lpips", "pictures.lpips_ratio", "tiles.auroc"
TISSUE = "tiles_with_tissue.auroc"


def compared(table: Sequence[Figures]) -> dict[str, Any] | None:
    """The comparison of the rows of mappings that have pictures; None where there are none.

    Args:
        table: rows as `detector_results.joined` has them, labelled.

    Returns:
        `best_reconstruction` and `best_detection` (row, LPIPS on normals, AUROC), `generators` and `mappings` (see
        `_by`), `lpips_against_auroc` and the like (see `rank_correlation`), `lpips_ratio` (tumour over normal),
        `encoder_against_search` and `hybrid_against_projection` (see there).
    """
    rows = [row for row in table if row["group"] == "mapping" and figure(row, LPIPS) is not None]
    if not rows:
        return None
    ratios = [ratio for row in rows if (ratio := figure(row, RATIO)) is not None]
    return {
        "best_reconstruction": _spoken(min(rows, key=lambda row: float(figure(row, LPIPS)))),
        "best_detection": _spoken(max(rows, key=lambda row: float(figure(row, AUROC)))),
        "generators": _by(rows, "training.generator.name", "training.mapping.name"),
        "mappings": _by(rows, "training.mapping.name", "training.generator.name"),
        "lpips_against_auroc": rank_correlation(rows, LPIPS, AUROC),
        "lpips_against_auroc_with_tissue": rank_correlation(rows, LPIPS, TISSUE),
        "lpips_ratio_against_auroc": rank_correlation(rows, RATIO, AUROC),
        "lpips_ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        if ratios
        else None,
        "encoder_against_search": encoder_against_search(rows),
        "hybrid_against_projection": hybrid_against_projection(rows),
    }


def _spoken(row: Figures) -> dict[str, Any]:
    figures = {"lpips_normal": LPIPS, "auroc": AUROC, "auroc_ci95": "tiles.auroc_ci95", "auroc_with_tissue": TISSUE}
    return {"row": row["label"]} | {name: figure(row, path) for name, path in figures.items()}


def _by(rows: Sequence[Figures], path: str, other: str) -> list[dict[str, Any]]:
    """Generators over the mappings that all of them have, or mappings over the generators that all of them have.

    Returns:
        By the mean LPIPS on normals: `name`, `lpips_normal` and `auroc` (means over what is common), `n` common ones
        and `best` of its rows. Means are None where nothing is common.
    """
    names = list(dict.fromkeys(figure(row, path) for row in rows))
    own = {name: [row for row in rows if figure(row, path) == name] for name in names}
    common = set.intersection(*({figure(row, other) for row in its} for its in own.values()))
    found = []
    for name, its in own.items():
        shared = [row for row in its if figure(row, other) in common]
        means = {
            "lpips_normal": statistics.fmean(figure(row, LPIPS) for row in shared) if shared else None,
            "auroc": statistics.fmean(figure(row, AUROC) for row in shared) if shared else None,
        }
        best = min(its, key=lambda row: float(figure(row, LPIPS)))
        found.append({"name": name, **means, "n": len(common), "best": _spoken(best)})
    return sorted(found, key=lambda each: (each["lpips_normal"] or math.inf, each["name"]))


def rank_correlation(rows: Sequence[Figures], path: str, other: str) -> dict[str, Any] | None:
    """Spearman's rank correlation over rows that have both figures, its two-sided p-value and 95 % interval.

    The interval is by Fisher's transformation with the standard error of Bonett and Wright 2000
    (https://doi.org/10.1007/BF02294183). None for fewer than four rows, or where all have one value.
    """
    pairs = [(a, b) for row in rows if (a := figure(row, path)) is not None and (b := figure(row, other)) is not None]
    if len(pairs) < 4 or any(len(set(values)) < 2 for values in zip(*pairs, strict=True)):
        return None
    rho, p = (float(value) for value in spearmanr(*zip(*pairs, strict=True)))
    half = Z95 * math.sqrt((1 + rho**2 / 2) / (len(pairs) - 3))
    ends = None if abs(rho) > 1 - 1e-9 else [math.tanh(math.atanh(rho) + sign * half) for sign in (-1, 1)]
    return {"rho": rho, "p": p, "ci95": ends, "n": len(pairs)}


def encoder_against_search(rows: Sequence[Figures]) -> list[dict[str, Any]]:
    """On each generator that has both: the quickest row of `fanogan` against that of `anogan` with the most steps.

    Returns:
        `generator`, `quick` and `slow` (of each its mapping, LPIPS, AUROC and ms a tile), `ratio` of their time a tile
        (CPU time; on a GPU wall time), and `lpips_ratio`, quick over slow.
    """
    found = []
    for generator in dict.fromkeys(figure(row, "training.generator.name") for row in rows):
        encoders, searches = _of(rows, generator, "fanogan"), _of(rows, generator, "anogan")
        if encoders and searches:
            found.append({"generator": generator} | _pair(min(encoders, key=_ms), max(searches, key=_steps)))
    return found


def hybrid_against_projection(rows: Sequence[Figures]) -> list[dict[str, Any]]:
    """On each generator that has both: the `hybrid` with the most steps against the longest `projection`, in w+ if so.

    Returns:
        As of `encoder_against_search`.
    """
    found = []
    for generator in dict.fromkeys(figure(row, "training.generator.name") for row in rows):
        hybrids, projections = _of(rows, generator, "hybrid"), _of(rows, generator, "projection")
        if hybrids and projections:
            longest = max(projections, key=lambda row: (_steps(row), figure(row, "training.mapping.space") == "w+"))
            found.append({"generator": generator} | _pair(max(hybrids, key=_steps), longest))
    return found


def _of(rows: Sequence[Figures], generator: str, kind: str) -> list[Figures]:
    return [
        row for row in rows
        if figure(row, "training.generator.name") == generator and figure(row, "training.mapping.kind") == kind
    ]  # fmt: skip


def _ms(row: Figures) -> float:
    """Milliseconds of mapping a tile: of CPU time, or on a GPU of wall time."""
    is_gpu = any(one.get("device") == "cuda" for one in row.get("by_seed", ()))
    return float(figure(row, "mapping.ms_per_tile" if is_gpu else "mapping.cpu_ms_per_tile"))


def _steps(row: Figures) -> float:
    return float(figure(row, "training.mapping.steps") or 0)


def _pair(quick: Figures, slow: Figures) -> dict[str, Any]:
    """Two rows, how many times as long the second maps a tile, and the share of the first's LPIPS in the second's."""
    both = {
        name: _spoken(row) | {"mapping": figure(row, "training.mapping.name"), "ms_per_tile": _ms(row)}
        for name, row in (("quick", quick), ("slow", slow))
    }
    ratio = _ms(slow) / _ms(quick) if _ms(quick) else None
    of_lpips = figure(quick, LPIPS) / figure(slow, LPIPS) if figure(slow, LPIPS) else None
    return both | {"ratio": ratio, "lpips_ratio": of_lpips}
