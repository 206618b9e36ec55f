"""Masks of boxes on a small slide."""

import numpy as np

SIZE = (1000, 800)


SHAPE = (80, 100)
"""Ten level-0 pixels a mask pixel."""


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SHAPE, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))
