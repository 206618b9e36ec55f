"""Higher Criticism: whether more p-values are small than chance has it, be they few and small or many and smallish.

Donoho and Jin 2004, "Higher criticism for detecting sparse heterogeneous mixtures", Annals of Statistics 32, 962-994,
eq. 1.2 and section 3 (HC+): the largest standardised excess of the i-th smallest of n p-values over the i / n that it
has under the null. HC+ leaves p-values below 1 / n out, whose excess has a heavy tail; here they count as 1 / (n + 1),
so that a slide cannot lose by a tile that scores higher.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SMALLEST_HALF = 0.5
"""The share of the smallest p-values that are looked at: alpha_0 of the paper, which has it at 1/2 in its figures."""


def higher_criticism(p: Floats) -> float:
    """HC of p-values [n], n >= 1, in any order; standard deviations, about sqrt(2 log log n) under the null.

    >>> round(higher_criticism(np.array([0.02, 0.04, 0.5, 0.9])), 3)
    1.5
    """
    n = len(p)
    smallest = np.sort(p)[: max(1, math.floor(SMALLEST_HALF * n))]
    bounded = np.clip(smallest, 1 / (n + 1), n / (n + 1))
    excess = np.arange(1, len(bounded) + 1) / n - bounded
    return float(math.sqrt(n) * (excess / np.sqrt(bounded * (1 - bounded))).max())
