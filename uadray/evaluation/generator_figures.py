"""All figures of one generator against real tiles, and the same figures of what is known, to read them by."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from uadray.evaluation.copies import nearest_in_features, reduced
from uadray.evaluation.feature_spaces import FeatureSpace
from uadray.evaluation.frechet import frechet_distance, kernel_distances, moments
from uadray.evaluation.manifolds import precision_and_recall
from uadray.tiles.images import Pixels

SHOWN_PX = 64
"""Largest side of pictures that are kept: pages show them, and pixels are compared at a quarter of that."""

KEPT = 20_000
"""Pictures of each kind that are kept at the most: 246 MB."""

MOST_FOR_SCALE = 5000
"""Tiles of each row of the scale at the most."""

DARKENED = 0.9
"""Of the values of real tiles, a change that is hardly seen."""

BLUR_PX = 1.0
"""Standard deviation of a blur that is well seen on tiles of 64 px."""

OF_SUBSETS = "_sd_of_subsets"
"""Ends the name of the kernel distance's deviation between subsets."""

GENERATOR = "this generator"

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Gathered:
    """Pictures of one kind.

    Attributes:
        features: [n, d].
        pictures: [k, s, s, 3], the first of them, at `SHOWN_PX` at the most.
    """

    features: Features
    pictures: Pixels


def gathered(
    space: FeatureSpace, batches: Iterable[Pixels], *, kept: int = KEPT, tick: Callable[[int], None] | None = None
) -> Gathered:
    """Features and pictures of batches [b, h, w, 3].

    Args:
        space: whose features.
        batches: of bytes.
        kept: pictures.
        tick: told of the size of each batch that is done.
    """
    features, pictures, n = [], list[Pixels](), 0
    for batch in batches:
        features.append(space.of(batch))
        if n < kept:
            pictures.append(reduced(batch[: kept - n], SHOWN_PX))
        n += len(batch)
        if tick is not None:
            tick(len(batch))
    return Gathered(np.concatenate(features), np.concatenate(pictures))


def figures_of_draw(space: FeatureSpace, real: Features, fake: Features, *, seed: int) -> dict[str, float]:
    """Frechet distance, kernel distance with the deviation of its subsets, precision and recall, under their names."""
    kernel = kernel_distances(real, fake, rng=np.random.default_rng(seed))
    precision, recall = precision_and_recall(on(space, real), on(space, fake))
    return {
        space.figure("frechet"): frechet_distance(moments(real), moments(fake)),
        space.figure("kid"): float(kernel.mean()), f"{space.figure('kid')}{OF_SUBSETS}": float(kernel.std(ddof=1)),
        space.figure("precision"): precision, space.figure("recall"): recall,
    }  # fmt: skip


def over_draws(draws: list[dict[str, float]]) -> dict[str, Any]:
    """Each figure's mean over draws of samples, and where there are several its standard deviation as `<name>_sd`.

    >>> over_draws([{"fid": 2.0}, {"fid": 4.0}])
    {'fid': 3.0, 'fid_sd': 1.4142135623730951}
    """
    result: dict[str, Any] = {}
    for name in draws[0]:
        values = [draw[name] for draw in draws]
        result[name] = float(np.mean(values))
        if len(values) > 1 and not name.endswith(OF_SUBSETS):
            result[f"{name}_sd"] = float(np.std(values, ddof=1))
    return result


def scale(
    space: FeatureSpace, real: Features, fake: Features, tiles: Iterable[Pixels], *, seed: int
) -> list[dict[str, Any]]:
    """The figures of tiles of which one knows how good they are, and of as many samples.

    All rows have as many tiles, and are compared with the same other half of the real ones: figures of another number
    of tiles do not compare with them.

    Args:
        space: whose features.
        real: features of real tiles [n, d].
        fake: features of samples.
        tiles: the first `scale_tiles` real tiles, as bytes.
        seed: of noise and subsets.

    Returns:
        A row each for other real tiles, the same darkened, the same blurred, the generator and noise: `of`, `tiles`,
        the figures of `figures_of_draw`, and as `nearer_than_real` `copies.Nearest.share`.
    """
    m = scale_tiles(len(real), len(fake))
    rng, dark, blurred, noise = np.random.default_rng(seed), [], [], []
    for batch in tiles:
        dark.append(space.of(np.round(batch * DARKENED).astype(np.uint8)))
        blurred.append(space.of(np.stack([cv2.GaussianBlur(tile, (0, 0), BLUR_PX) for tile in batch])))
        noise.append(space.of(rng.integers(0, 256, size=batch.shape, dtype=np.uint8)))
    rows = {
        "other real tiles": real[:m], "the same, 10 % darker": np.concatenate(dark),
        "the same, blurred by 1 px": np.concatenate(blurred), GENERATOR: fake[:m], "noise": np.concatenate(noise),
    }  # fmt: skip
    reference = real[m : 2 * m]
    return [
        {"of": name, "tiles": m} | figures_of_draw(space, reference, features, seed=seed)
        | {"nearer_than_real": nearest_in_features(on(space, reference), on(space, features)).share}
        for name, features in rows.items()
    ]  # fmt: skip


def scale_tiles(n_real: int, n_fake: int) -> int:
    """Tiles of each row of `scale`.

    >>> scale_tiles(1000, 3000), scale_tiles(50_000, 50_000)
    (500, 5000)
    """
    return min(n_real // 2, n_fake, MOST_FOR_SCALE)


def on(space: FeatureSpace, features: Features) -> torch.Tensor:
    """Features as a tensor on the device of a space."""
    return torch.from_numpy(features).to(space.device)
