"""Random choices that every process makes alike."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def draw(n: int, count: int, key: Iterable[int]) -> npt.NDArray[np.int64]:
    """`count` of the numbers below `n`, at random and in rising order; all of them where n <= count.

    The same key gives the same numbers, in whichever process.

    >>> draw(5, 9, (0,)).tolist(), len(draw(9, 5, (0,)))
    ([0, 1, 2, 3, 4], 5)
    """
    if count >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(list(key)).choice(n, count, replace=False, shuffle=False))
