"""The three stages of a detector behind Ray Serve. Plain classes: `uadray.serving.app` makes deployments of them.

    MapStage          pixels [N, tile, tile, 3] uint8  -> z, an array [N, ...] or a tuple of such latents
    ReconstructStage  z                                -> x_hat [N, 3, h, w] float32, or None
    ScoreStage        pixels, x_hat, z                 -> Scores
    AllStages         pixels                           -> Scores, the three in one replica

Each loads its stage of the same `Detector` that batch uses, so that scores are the same numbers. Arrays of numpy travel
between replicas. The pixels travel twice, as bytes: the score stage makes x of them again, which has four times as many
bytes. `x_hat` is None where the detector has no reconstruction.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, final

import numpy as np
import numpy.typing as npt
import ray
import torch
from torch import Tensor

from uadray import metrics
from uadray.detectors.bundle import Bundle, load_detector
from uadray.detectors.detector import STAGES, Detector, Stage
from uadray.detectors.latents import Latent
from uadray.tiles.images import Pixels

Floats = npt.NDArray[np.float32]
Latents = Floats | tuple[Any, ...]
"""What the stage `map` gives, an array or a tuple of such latents: N comes first in each array."""


@dataclass(frozen=True)
class Scores:
    """What the last stage says of N tiles.

    Attributes:
        score: [N], higher = more abnormal.
        residual: [N, h, w], or None where maps were not asked for.
    """

    score: npt.NDArray[np.float64]
    residual: Floats | None


@final
class MapStage:
    """The stage `map`."""

    def __init__(
        self, bundle_uri: str, bundle: Bundle, *, threads: int | None = None, batch_tiles: int | None = None,
        detector: Detector | None = None,
    ) -> None:  # fmt: skip
        self._bundle_id = bundle.id
        self.detector = detector or _loaded(bundle_uri, bundle, ["map"], threads=threads, batch_tiles=batch_tiles)

    def bundle_id(self) -> str:
        """The id of the bundle that this replica has loaded."""
        return self._bundle_id

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Latents:
        """Latents of RGB tiles."""
        with metrics.stage("serve_map") as meter:
            z = _joined_latents([self.detector.mapping(x) for x in self.detector.inputs(pixels)])
            meter.add(tiles=len(pixels), bytes_=pixels.nbytes)
        return z


@final
class ReconstructStage:
    """The stage `reconstruct`."""

    def __init__(
        self, bundle_uri: str, bundle: Bundle, *, threads: int | None = None, batch_tiles: int | None = None,
        detector: Detector | None = None,
    ) -> None:  # fmt: skip
        self._bundle_id = bundle.id
        self.detector = detector or _loaded(
            bundle_uri, bundle, ["reconstruct"], threads=threads, batch_tiles=batch_tiles
        )

    def bundle_id(self) -> str:
        """The id of the bundle that this replica has loaded."""
        return self._bundle_id

    @torch.inference_mode()
    def __call__(self, z: Latents) -> Floats | None:
        """Reconstructions [N, 3, h, w] of latents; None from a detector that has none."""
        with metrics.stage("serve_reconstruct") as meter:
            parts = [self.detector.reconstruct(batch) for batch in _latent_batches(z, self.detector)]
            x_hats = [part for part in parts if part is not None]
            meter.add(tiles=_n_tiles(z))
        return _joined(x_hats) if x_hats else None


@final
class ScoreStage:
    """The stage `score`."""

    def __init__(
        self, bundle_uri: str, bundle: Bundle, *, threads: int | None = None, batch_tiles: int | None = None,
        detector: Detector | None = None,
    ) -> None:  # fmt: skip
        self._bundle_id = bundle.id
        self.detector = detector or _loaded(bundle_uri, bundle, ["score"], threads=threads, batch_tiles=batch_tiles)

    def bundle_id(self) -> str:
        """The id of the bundle that this replica has loaded."""
        return self._bundle_id

    @torch.inference_mode()
    def __call__(self, pixels: Pixels, x_hat: Floats | None, z: Latents, *, maps: bool = False) -> Scores:
        """Scores of RGB tiles, given their reconstructions, if there are any, and their latents."""
        with metrics.stage("serve_score") as meter:
            x_hats = _batches(x_hat, self.detector) if x_hat is not None else repeat(None, self._n_batches(pixels))
            batches = zip(self.detector.inputs(pixels), x_hats, _latent_batches(z, self.detector), strict=True)
            parts = [self.detector.score(*batch) for batch in batches]
            scores, residuals = zip(*parts, strict=True)
            score = torch.cat(scores).double().cpu().numpy()
            residual = _joined(residuals) if maps else None
            meter.add(tiles=len(pixels))
        return Scores(score, residual)

    def _n_batches(self, pixels: Pixels) -> int:
        return -(-len(pixels) // self.detector.batch_tiles)


@final
class AllStages:
    """The three stages in one replica, which share one detector."""

    def __init__(
        self, bundle_uri: str, bundle: Bundle, *, threads: int | None = None, batch_tiles: int | None = None,
        detector: Detector | None = None,
    ) -> None:  # fmt: skip
        detector = detector or _loaded(bundle_uri, bundle, STAGES, threads=threads, batch_tiles=batch_tiles)
        self.map = MapStage(bundle_uri, bundle, detector=detector)
        self.reconstruct = ReconstructStage(bundle_uri, bundle, detector=detector)
        self.score = ScoreStage(bundle_uri, bundle, detector=detector)

    def bundle_id(self) -> str:
        """The id of the bundle that this replica has loaded."""
        return self.map.bundle_id()

    def __call__(self, pixels: Pixels, *, maps: bool = False) -> Scores:
        """Scores of RGB tiles."""
        z = self.map(pixels)
        return self.score(pixels, self.reconstruct(z), z, maps=maps)


def device() -> str:
    """The GPU that Serve gave this replica, if it gave one."""
    return "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"


def _loaded(
    bundle_uri: str, bundle: Bundle, stages: Collection[Stage], *, threads: int | None, batch_tiles: int | None
) -> Detector:
    """A replica's detector, with the networks of these stages."""
    if threads is not None:
        torch.set_num_threads(threads)
    return load_detector(bundle_uri, bundle, device=device(), batch_tiles=batch_tiles, stages=stages)


def _latent_batches(z: Latents, detector: Detector) -> Iterator[Latent]:
    """Latents in batches, each of the kind that the detector's stage `map` gave: a tensor or a tuple of latents."""
    if isinstance(z, tuple):
        return zip(*(_latent_batches(part, detector) for part in z), strict=True)
    return _batches(z, detector)


def _n_tiles(z: Latents) -> int:
    return _n_tiles(z[0]) if isinstance(z, tuple) else len(z)


def _batches(array: Floats, detector: Detector) -> Iterator[Tensor]:
    """An array in the batches in which `Detector` works, so that neither memory nor rounding differs from batch."""
    step = detector.batch_tiles
    for start in range(0, len(array), step):
        yield torch.tensor(array[start : start + step], device=detector.device)


def _joined_latents(batches: Sequence[Latent]) -> Latents:
    tensors = [batch for batch in batches if isinstance(batch, Tensor)]
    if tensors:
        return _joined(tensors)
    return tuple(_joined_latents(column) for column in zip(*batches, strict=True))


def _joined(batches: Sequence[Tensor]) -> Floats:
    """Batches as one array, in float32; what is no floating-point number (indices among latents) stays as it is."""
    joined = torch.cat(list(batches))
    return (joined.float() if joined.is_floating_point() else joined).cpu().numpy()
