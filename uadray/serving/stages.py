"""The three stages of a detector behind Ray Serve. Plain classes: `uadray.serving.app` makes deployments of them.

    Encoder    pixels [N, tile, tile, 3] uint8   -> z [N, ...] float32
    Generator  z                                 -> x_hat [N, 3, h, w] float32
    Scorer     pixels, x_hat                     -> Scores
    Whole      pixels                            -> Scores, the three in one replica

Each loads its stage of the same `Detector` that batch uses, so that scores are the same numbers. Between replicas go
numpy arrays. The pixels travel twice, as bytes: the scorer makes its own x of them, at a quarter of x's size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import ray
import torch
from torch import Tensor

from uadray import metrics
from uadray.detectors.bundle import Bundle, load_detector
from uadray.detectors.detector import Detector, Stage
from uadray.tiles.images import Pixels

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
    """A replica's detector, of which it loads what its stage works with."""

    stages: ClassVar[tuple[Stage, ...]]

    def __init__(
        self, bundle_uri: str, bundle: Bundle, *, threads: int | None = None, batch_tiles: int | None = None,
        detector: Detector | None = None,
    ) -> None:  # fmt: skip
        _set_threads(threads)
        self._bundle_id = bundle.id
        self.detector = detector or load_detector(
            bundle_uri, bundle, device=device(), batch_tiles=batch_tiles, stages=self.stages
        )

    def bundle_id(self) -> str:
        """Of the bundle that this replica has loaded."""
        return self._bundle_id

    def _sent(self, batch: Floats) -> Tensor:
        return torch.tensor(batch, device=self.detector.device)

    def _batches(self, array: Floats) -> Iterator[Tensor]:
        """As `Detector` has them, so that neither memory nor rounding differs from it."""
        step = self.detector.batch_tiles
        return (self._sent(array[start : start + step]) for start in range(0, len(array), step))


class Encoder(_Stage):
    """The stage `map`."""

    stages = ("map",)

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Floats:
        """Latents of RGB tiles, [N, ...]."""
        with metrics.stage("serve_map") as meter:
            z = _joined([_one(self.detector.mapping(x)) for x in self.detector.inputs(pixels)])
            meter.add(tiles=len(pixels), bytes_=pixels.nbytes)
        return z


class Generator(_Stage):
    """The stage `reconstruct`."""

    stages = ("reconstruct",)

    @torch.inference_mode()
    def __call__(self, z: Floats) -> Floats:
        """Reconstructions [N, 3, h, w] of latents."""
        with metrics.stage("serve_reconstruct") as meter:
            x_hat = _joined([_one(self.detector.reconstruct(part)) for part in self._batches(z)])
            meter.add(tiles=len(z))
        return x_hat


class Scorer(_Stage):
    """The stage `score`."""

    stages = ("score",)

    @torch.inference_mode()
    def __call__(self, pixels: Pixels, x_hat: Floats, *, maps: bool = False) -> Scores:
        """Scores of RGB tiles against their reconstructions."""
        with metrics.stage("serve_score") as meter:
            pairs = zip(self.detector.inputs(pixels), self._batches(x_hat), strict=True)
            scores, residuals = zip(*(self.detector.score(x, part, ()) for x, part in pairs), strict=True)
            score = torch.cat(scores).double().cpu().numpy()
            residual = _joined(residuals) if maps else None
            meter.add(tiles=len(pixels))
        return Scores(score, residual)


class Whole:
    """The three stages in one replica, of one detector."""

    def __init__(
        self, bundle_uri: str, bundle: Bundle, *, threads: int | None = None, batch_tiles: int | None = None
    ) -> None:
        _set_threads(threads)
        detector = load_detector(bundle_uri, bundle, device=device(), batch_tiles=batch_tiles)
        self.encoder = Encoder(bundle_uri, bundle, detector=detector)
        self.generator = Generator(bundle_uri, bundle, detector=detector)
        self.scorer = Scorer(bundle_uri, bundle, detector=detector)

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


def _one(value: Tensor | tuple[Tensor, ...] | None) -> Tensor:
    """A latent or a reconstruction as it travels between replicas: one tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"stages send one tensor to each other, not {type(value).__name__}")
    return value


def _joined(batches: Sequence[Tensor]) -> Floats:
    return torch.cat(list(batches)).float().cpu().numpy()
