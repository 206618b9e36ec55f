"""`uadray evaluate` on a generator's bundle: `generation.json` and `generation.html`."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uadray.detectors.pixels import to_pixels
from uadray.errors import WorkError
from uadray.evaluation import pathologist
from uadray.evaluation.copies import Nearest, nearest_in_features, nearest_in_pixels
from uadray.evaluation.feature_spaces import FeatureSpace, SpaceName, chosen_space, feature_space
from uadray.evaluation.generation import sampled
from uadray.evaluation.generator_figures import (
    KEPT,
    Gathered,
    figures_of_draw,
    gathered,
    on,
    over_draws,
    scale,
    scale_tiles,
)
from uadray.evaluation.path_length import Sampling, path_length
from uadray.evaluation.real_tiles import crops_of, opened
from uadray.generators.bundle import GeneratorBundle, load_generator, read_generator
from uadray.generators.catalog import file_of
from uadray.generators.pictures import interpolated
from uadray.networks.lpips import lpips_distance
from uadray.networks.outline import Networks
from uadray.reports.generation_page import Pairs, Shown, generation_page
from uadray.storage import objects
from uadray.tiles.images import Pixels
from uadray.training.config import TrainConfig

REAL_SEED, PATH_SEED, WAY_SEED = 30_000, 40_000, 50_000
"""Added to the seed of an evaluation: what is drawn for one thing is not drawn again for another."""

GRID, PAIRS = 64, 8
"""Samples that the page shows, and pairs of a sample and its nearest real tile."""

CHECKED_IN_PIXELS = 1000
"""Samples that are compared with real tiles pixel by pixel, which takes eight searches each."""

STOPS, STEPS = 4, 10
"""Of the interpolation that the page shows."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How a generator is judged.

    Attributes:
        samples: pictures of each draw; the published FID is of 50,000.
        draws: of so many pictures each, with other latents, whose spread is the figures' uncertainty.
        seed: of all that is drawn.
        truncation: towards the mean style.
        features: that tiles are compared by; None takes Inception where its weights lie in the cache.
        path_steps: of the perceptual path length; 0 leaves it out.
        label: of the real tiles; None takes that of the bundle's training.
        device: to draw and compare on.
        classifier: URI of a classifier's bundle that is asked about the samples.
        classifier_data: labelled tiles that it was not trained on; None takes the real tiles.
    """

    samples: int = 50_000
    draws: int = 3
    seed: int = 0
    truncation: float = 1.0
    features: SpaceName | None = None
    path_steps: int = 10_000
    label: str | None = None
    device: str = "cpu"
    classifier: str | None = None
    classifier_data: str | None = None


class Progress:
    """What an evaluation tells of itself: pictures that are done, of how many, and which they are."""

    def __init__(self, tick: Callable[[int, int, str], None] | None, total: int) -> None:
        self._tick, self._done, self._total = tick, 0, total

    def of(self, what: str) -> Callable[[int], None]:
        """Told of the sizes of batches."""

        def done(n: int) -> None:
            self._done += n
            if self._tick is not None:
                self._tick(self._done, self._total, what)

        return done


def evaluate_generator(
    uri: str, data: str, asked: Asked, *, out: str | None = None, tick: Callable[[int, int, str], None] | None = None
) -> dict[str, Any]:
    """Judge a generator against real tiles; JSON and a page are left in `out`, or beside its bundle.

    Args:
        uri: of the bundle.
        data: URI of a slide manifest or a tile set: best what it was trained on, for copies are looked for there.
        asked: how.
        out: URI of a folder.
        tick: told of the progress.

    Returns:
        What `generation.json` says, and where the `page` is.

    Raises:
        InputError: no generator, no usable tile, or a truncation that it cannot have.
        WorkError: weights of the features cannot be had.
    """
    bundle = read_generator(uri)
    networks = load_generator(uri, bundle)
    space = feature_space(asked.features or chosen_space(), asked.device)
    classified = {}
    if asked.classifier is not None:  # first, for it may refuse the tiles
        classified["classifier"] = _classified(bundle, networks, data, asked, asked.classifier)
    answer, shown = judged(bundle, networks, space, data, asked, tick)
    answer |= classified
    folder = out or uri
    text = json.dumps(answer, indent=1, allow_nan=False)
    objects.write_bytes(objects.join(folder, "generation.json"), text.encode())
    page_uri, page = objects.join(folder, "generation.html"), generation_page(answer, shown)
    objects.write_bytes(page_uri, page.encode(), content_type="text/html; charset=utf-8")
    return answer | {"page": page_uri}


def judged(
    bundle: GeneratorBundle, networks: Networks, space: FeatureSpace, data: str, asked: Asked,
    tick: Callable[[int, int, str], None] | None = None,
) -> tuple[dict[str, Any], Shown]:  # fmt: skip
    """The figures of a generator, and the pictures that the page shows; see `evaluate_generator`."""
    config, seed = as_training(bundle, label=asked.label), asked.seed + REAL_SEED
    tiles = opened(config, data, seed=seed)

    def crops(most: int) -> Iterator[Pixels]:
        return crops_of(tiles, config.input_px, most=most, seed=seed)

    n_real = min(asked.samples, tiles.n_tiles)
    progress = Progress(tick, n_real + asked.draws * asked.samples + asked.path_steps)
    real = gathered(space, crops(n_real), tick=progress.of("real tiles"))
    fake, draws = _draws(bundle, networks, space, real, asked, progress)
    by_features, by_pixels = _nearest(space, real, fake)
    answer: dict[str, Any] = {
        "name": bundle.name, "id": bundle.id, "generator": bundle.generator.model_dump(mode="json"),
        "input_px": config.input_px, "mpp": bundle.tiles.mpp, "features": space.name, "samples": asked.samples,
        "draws": asked.draws, "real_tiles": len(real.features), "seed": asked.seed, "truncation": asked.truncation,
        "images_shown": bundle.metrics.get("images_shown"),
        "is_training_data": tiles.description["fingerprint"] == bundle.training_data.get("fingerprint"),
        "figures": over_draws(draws),
        "scale": scale(space, real.features, fake.features, crops(scale_tiles(n_real, asked.samples)), seed=seed),
        "copies": {"features": by_features.share, "pixels": by_pixels.share,
                   "checked": {"features": len(by_features.ratios), "pixels": len(by_pixels.ratios)},
                   "among": {"features": len(real.features), "pixels": len(real.pictures)}},
        "perceptual_path_length": _path_lengths(bundle, networks, asked, progress),
    }  # fmt: skip
    ways = [to_pixels(x) for x in _ways(bundle, networks, asked)]
    pairs = [_pairs("features", by_features, real, fake), _pairs("pixels", by_pixels, real, fake)]
    return answer, Shown(fake.pictures[:GRID], real.pictures[:GRID], ways, pairs)


def as_training(bundle: GeneratorBundle, *, label: str | None = None) -> TrainConfig:
    """The configuration by which tiles are read as this generator's training has read them."""
    config = TrainConfig(name=bundle.name, generator=bundle.generator, tiles=bundle.tiles)
    known = label or bundle.training_data.get("label")
    return config if known is None else config.model_copy(update={"train_label": str(known)})


def _samples(bundle: GeneratorBundle, networks: Networks, asked: Asked, draw: int) -> Iterator[Pixels]:
    return sampled(
        bundle.generator, networks, asked.samples, seed=asked.seed + draw, device=asked.device,
        truncation=asked.truncation,
    )  # fmt: skip


def _draws(
    bundle: GeneratorBundle, networks: Networks, space: FeatureSpace, real: Gathered, asked: Asked, progress: Progress
) -> tuple[Gathered, list[dict[str, float]]]:
    """The first draw of samples, and the figures of each."""
    first, figures = None, []
    for draw in range(asked.draws):
        pictures, what = _samples(bundle, networks, asked, draw), progress.of(f"samples, draw {draw + 1}")
        fake = gathered(space, pictures, kept=KEPT if first is None else 1, tick=what)
        first = first or fake
        figures.append(figures_of_draw(space, real.features, fake.features, seed=asked.seed))
    assert first is not None  # noqa: S101 - there is one draw at the least
    return first, figures


def _nearest(space: FeatureSpace, real: Gathered, fake: Gathered) -> tuple[Nearest, Nearest]:
    """By features, and by pixels, of samples whose pictures are kept, among real tiles whose pictures are."""
    of_real, of_fake = (on(space, each.features[: len(each.pictures)]) for each in (real, fake))
    by_pixels = nearest_in_pixels(real.pictures, fake.pictures[:CHECKED_IN_PIXELS], device=str(space.device))
    return nearest_in_features(of_real, of_fake), by_pixels


def _pairs(by: str, found: Nearest, real: Gathered, fake: Gathered) -> Pairs:
    """The most suspicious of samples, each beside another real tile."""
    _, first = np.unique(found.tiles, return_index=True)
    chosen = np.sort(first)[:PAIRS]
    samples, tiles, neighbours = (each[chosen] for each in (found.samples, found.tiles, found.neighbours))
    return Pairs(
        by, fake.pictures[samples], real.pictures[tiles], real.pictures[neighbours], found.ratios[chosen].tolist()
    )


def _ways(bundle: GeneratorBundle, networks: Networks, asked: Asked) -> Iterator[Tensor]:
    return interpolated(
        bundle.generator, networks, seed=asked.seed + WAY_SEED, steps=STEPS, stops=STOPS, truncation=asked.truncation,
        device=asked.device,
    )  # fmt: skip


def _path_lengths(bundle: GeneratorBundle, networks: Networks, asked: Asked, progress: Progress) -> dict[str, Any]:
    """Mean and standard error of the path length, in Z or in W; or why there is none."""
    if not asked.path_steps:
        return {"left_out": "it was not asked for"}
    try:
        distance = lpips_distance("vgg16").to(asked.device)
    except WorkError as error:
        return {"left_out": str(error)}
    config = bundle.generator
    z = file_of(config).latents(config, 1, rng=torch.Generator().manual_seed(0)).to(asked.device)
    space = "z" if file_of(config).styles(config, networks, z).ndim == 2 else "w"
    result: dict[str, Any] = {"space": space, "steps": asked.path_steps, "lpips": "vgg16"}
    samplings: tuple[Sampling, ...] = ("full", "end") if space == "w" else ("full",)
    for sampling in samplings:
        mean, deviation = path_length(
            config, networks, distance, asked.path_steps, seed=asked.seed + PATH_SEED, device=asked.device,
            sampling=sampling, tick=progress.of("path length"),
        )  # fmt: skip
        result[sampling] = {"mean": mean, "standard_error": deviation}
    return result


def _classified(
    bundle: GeneratorBundle, networks: Networks, data: str, asked: Asked, classifier: str
) -> dict[str, Any]:
    """What a classifier says of the samples of the first draw, see `pathologist.asked`."""
    return pathologist.asked(
        classifier, _samples(bundle, networks, asked, 0), label=as_training(bundle, label=asked.label).train_label,
        mpp=bundle.tiles.mpp, data=asked.classifier_data or data, seed=asked.seed, device=asked.device,
    )  # fmt: skip
