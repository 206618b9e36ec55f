"""P-values of normal slides against the uniform: what share of them lies at or below each p-value.

Where the calibration holds, at most a share of p of normal slides has a p-value of at most p. How far chance takes the
share from that is known exactly: of m normal slides judged by n calibration slides, the number at or below k / (n + 1)
is beta-binomial with k and n + 1 - k (Vovk 2012, https://arxiv.org/abs/1209.2673, prop. 2a; m slides share one
calibration). Slides of one patient are taken for independent, which makes the band somewhat too narrow for them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import betabinom, binom

from uadray.evaluation.arrays import Floats, Points
from uadray.evaluation.intervals import exact_interval

_LEVELS = np.linspace(0, 1, 41)[1:-1]


def uniformity(decisions: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How p-values of normal slides lie against the uniform; None where no slide has one.

    Args:
        decisions: rows of `SLIDE_DECISIONS` of normal slides.

    Returns:
        `n`, the number of slides; `n_calibration`, the normal slides that they were judged by, the fewest where groups
        differ, None where decisions do not say; `curve`: p and the share of slides at most p; `band`: p, and the 95 %
        range of this share by chance, of the calibration's slides too where their number is known; `alpha`, `called`,
        the slides at or below it, and `called_ci95`, the exact interval of their share.
    """
    rows = [row for row in decisions if row.get("p_value") is not None]
    if not rows:
        return None
    values = np.sort([row["p_value"] for row in rows])
    sizes = [row["calibration_group_slides"] for row in rows if row.get("calibration_group_slides")]
    n_calibration = min(sizes) if sizes else None
    distinct = np.unique(values)[:400]
    shares = np.searchsorted(values, distinct, "right") / len(values)
    figures = {
        "n": len(values), "n_calibration": n_calibration,
        "curve": [[round(float(p), 6), round(float(s), 6)] for p, s in zip(distinct, shares, strict=True)],
        "band": _band(len(values), n_calibration),
    }  # fmt: skip
    alpha = rows[0].get("alpha")
    if alpha is not None:
        called = int((values <= alpha + 1e-12).sum())
        figures |= {"alpha": alpha, "called": called, "called_ci95": exact_interval(called, len(values))}
    return figures


def _band(m: int, n: int | None) -> Points:
    """Rows [p, low, high]."""
    levels = _LEVELS if n is None else np.unique(np.round(_LEVELS * (n + 1)).astype(int).clip(1, n)) / (n + 1)
    if n is None:
        low, high = (binom.ppf(end, m, levels) for end in (0.025, 0.975))
    else:
        ranks = levels * (n + 1)
        low, high = (_counts_by_chance(end, m, ranks, n) for end in (0.025, 0.975))
    rows = zip(levels, low / m, high / m, strict=True)
    return [[round(float(value), 6) for value in row] for row in rows]


def _counts_by_chance(end: float, m: int, ranks: Floats, n: int) -> Floats:
    """[len(ranks)] A quantile of the beta-binomial distribution, by its cumulative sums."""
    sums = np.cumsum(betabinom.pmf(np.arange(m + 1), m, ranks[:, None], n + 1 - ranks[:, None]), axis=1)
    return np.asarray((sums < end - 1e-12).sum(1).clip(max=m), np.float64)
