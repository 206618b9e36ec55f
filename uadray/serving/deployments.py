"""The three stages of a detector behind Ray Serve. Plain classes: `uadray.serving.app` makes deployments of them.

    Encoder    pixels [N, tile, tile, 3] uint8   -> z [N, ...] float32
    Generator  z                                 -> x_hat [N, 3, h, w] float32
    Scorer     pixels, x_hat                     -> Scores
    Whole      pixels                            -> Scores, the three in one replica

Each keeps its stage of the same `Detector` that batch uses, so that scores are the same numbers. Between replicas go
numpy arrays. The pixels travel twice, as bytes: the scorer makes its own x of them, at a quarter of x's size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from torch import Tensor

from uadray.bundle import Bundle, load_detector
from uadray.detector import BATCH, Detector
from uadray.models.pixels import Pixels, to_input
from uadray.monitoring import metrics

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """What the last stage says of N tiles.

    Attributes:
        score: [N], higher = more abnormal.
        residual: [N, h, w], or None where maps were not asked for.
    """

    score: npt.NDArray[np.float64]
    residual: Floats | None


class _Stage:
    """A replica's detector; each stage uses its own part of it."""

    def __init__(self, bundle_uri: str, bundle: Bundle, *, threads: int | None = None) -> None:
        _set_threads(threads)
        self.detector, self._bundle_id = load_detector(bundle_uri, bundle, device=device()), bundle.id

    def bundle_id(self) -> str:
        """Of the bundle that this replica has loaded."""
        return self._bundle_id


class Encoder(_Stage):
    """The stage `map`."""

    def __call__(self, pixels: Pixels) -> Floats:
        """Latents of RGB tiles, [N, ...]."""
        with metrics.stage("serve_map") as meter:
            (z,) = _in_batches(lambda p: (self.detector.mapping(_input(p, self.detector)),), pixels)
            meter.add(tiles=len(pixels), bytes_=pixels.nbytes)
        return z.astype(np.float32, copy=False)


class Generator(_Stage):
    """The stage `reconstruct`."""

    def __call__(self, z: Floats) -> Floats:
        """Reconstructions [N, 3, h, w] of latents."""
        with metrics.stage("serve_reconstruct") as meter:
            (x_hat,) = _in_batches(
                lambda part: (self.detector.reconstruct(torch.tensor(part, device=self.detector.device)),), z
            )
            meter.add(tiles=len(z))
        return x_hat.astype(np.float32, copy=False)


class Scorer(_Stage):
    """The stage `score`."""

    def __call__(self, pixels: Pixels, x_hat: Floats, *, maps: bool = False) -> Scores:
        """Scores of RGB tiles against their reconstructions."""
        with metrics.stage("serve_score") as meter:
            score, residual = _in_batches(
                lambda p, part: self.detector.score(
                    _input(p, self.detector), torch.tensor(part, device=self.detector.device)
                ),
                pixels,
                x_hat,
            )
            meter.add(tiles=len(pixels))
        return Scores(score.astype(np.float64), residual.astype(np.float32, copy=False) if maps else None)


class Whole:
    """The three stages in one replica."""

    def __init__(self, bundle_uri: str, bundle: Bundle, *, threads: int | None = None) -> None:
        self.encoder = Encoder(bundle_uri, bundle, threads=threads)
        self.generator, self.scorer = Generator(bundle_uri, bundle), Scorer(bundle_uri, bundle)

    def bundle_id(self) -> str:
        """Of the bundle that this replica has loaded."""
        return self.encoder.bundle_id()

    def __call__(self, pixels: Pixels, *, maps: bool = False) -> Scores:
        """Scores of RGB tiles."""
        return self.scorer(pixels, self.generator(self.encoder(pixels)), maps=maps)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def device() -> str:
    """The GPU that Serve gave this replica, if it gave one."""
    return "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"


def _input(pixels: Pixels, detector: Detector) -> Tensor:
    # what comes out of the object store is read-only, of which torch warns
    return to_input(pixels if pixels.flags.writeable else pixels.copy(), detector.input_px).to(detector.device)


@torch.inference_mode()
def _in_batches(function: Callable[..., tuple[Tensor, ...]], *arrays: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Apply to `BATCH` rows at a time, as `Detector` does, so that neither memory nor rounding differs from it."""
    starts = range(0, len(arrays[0]), BATCH)
    parts = [function(*(array[start : start + BATCH] for array in arrays)) for start in starts]
    return [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
