"""FROC of Camelyon16 by loops over pixels and detections: `evaluation.lesions` and `evaluation.froc` must equal it."""

import bisect
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Pixel = tuple[int, int]
Detection = tuple[float, float, float]
"""x, y in level-0 pixels, and a confidence."""


def naive_lesions(mask: npt.NDArray[np.bool_], um: float) -> tuple[dict[Pixel, int], set[int]]:
    """The lesion of each pixel (row, column) that is in one, and the lesions that are isolated tumour cells."""
    height, width = mask.shape
    drawn = np.argwhere(mask)
    every = [(r, c) for r in range(height) for c in range(width)]
    near = {p for p in every if len(drawn) and np.hypot(*(drawn - p).T).min() < 75 / (2 * um)}
    border = {(r, c) for r, c in every if r in (0, height - 1) or c in (0, width - 1)}
    outside: set[Pixel] = set()
    waiting = [p for p in border if p not in near]
    while waiting:
        r, c = waiting.pop()
        if (r, c) in outside or (r, c) in near or not (0 <= r < height and 0 <= c < width):
            continue
        outside.add((r, c))
        waiting += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
    left = {p for p in every if p not in outside}
    labels: dict[Pixel, int] = {}
    isolated: set[int] = set()
    number = 0
    for start in every:
        if start not in left or start in labels:
            continue
        number += 1
        members, waiting = [], [start]
        while waiting:
            r, c = waiting.pop()
            if (r, c) in labels or (r, c) not in left:
                continue
            labels[r, c] = number
            members.append((r, c))
            waiting += [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        spread = np.cov(np.array(members).T, bias=True) if len(members) > 1 else np.zeros((2, 2))
        if 4 * math.sqrt(max(np.linalg.eigvalsh(spread)[-1], 0)) < (200 + 75) / um:
            isolated.add(number)
    return labels, isolated


def naive_froc(
    slides: Sequence[tuple[npt.NDArray[np.bool_] | None, Sequence[Detection]]], *, um: float, downsample: int = 1
) -> tuple[float, dict[float, float], int]:
    """The score, the sensitivity at each rate, and the number of lesions, of masks [h, w] with detections."""
    false: list[float] = []
    best: list[float] = []
    n_lesions = 0
    for mask, detections in slides:
        labels, isolated = ({}, set()) if mask is None else naive_lesions(mask, um)
        found = dict.fromkeys(set(labels.values()) - isolated, 0.0)
        for x, y, confidence in detections:
            number = labels.get((round(y / downsample), round(x / downsample)), 0)
            if number == 0:
                false.append(confidence)
            elif number not in isolated:
                found[number] = max(found[number], confidence)
        best += found.values()
        n_lesions += len(found)
    rates, sensitivities = [0.0], [0.0]
    for threshold in sorted(set(false + best) - {0.0}, reverse=True):
        rates.append(sum(c >= threshold for c in false) / len(slides))
        sensitivities.append(sum(c >= threshold for c in best) / n_lesions)
    read = {}
    for target in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0):
        read[target] = sensitivities[min(bisect.bisect_left(rates, target), len(rates) - 1)]
    return sum(read.values()) / 6, read, n_lesions
