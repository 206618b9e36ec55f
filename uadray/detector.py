"""A detector: map, reconstruct, score. The same object runs in batch, behind Serve and in plain Python."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uadray.mapping import EncoderMapping, Mapping
from uadray.models.build import DpaConfig, FanoganConfig, Networks
from uadray.models.pixels import Pixels, to_input, to_pixels
from uadray.scoring import CosineScore, IziScore, PerceptualScore, Score

BATCH = 64
"""Tiles in one forward pass: larger is no faster on a CPU, and bounds the memory of the activations."""


@dataclass(frozen=True)
class Scored:
    """What a detector says of N tiles.

    Attributes:
        score: [N] float64, higher = more abnormal.
        x: [N, h, w, 3] uint8, what the detector looked at (the tile's centre).
        x_hat: [N, h, w, 3] uint8, its reconstruction.
        residual: [N, h', w'] float32.
    """

    score: npt.NDArray[np.float64]
    x: Pixels
    x_hat: Pixels
    residual: npt.NDArray[np.float32]


class Detector:
    """Three stages, as plain callables, and the input size they were trained for."""

    def __init__(
        self, mapping: Mapping, reconstruct: Callable[[Tensor], Tensor], score: Score, *, input_px: int
    ) -> None:
        self.mapping, self.reconstruct, self.score, self.input_px = mapping, reconstruct, score, input_px

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Scored:
        """Score RGB tiles [N, tile, tile, 3]; a tile's score does not depend on the others in the call."""
        parts = [self._batch(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
        return Scored(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _batch(self, pixels: Pixels) -> tuple[npt.NDArray[np.float64], Pixels, Pixels, npt.NDArray[np.float32]]:
        x = to_input(pixels, self.input_px)
        x_hat = self.reconstruct(self.mapping(x))
        score, residual = self.score(x, x_hat)
        return score.double().numpy(), to_pixels(x), to_pixels(x_hat), residual.float().numpy()


def build_detector(config: DpaConfig | FanoganConfig, networks: Networks) -> Detector:
    """Put trained networks in their three places."""
    for network in networks.values():
        network.eval().requires_grad_(False)
    encoder = EncoderMapping(networks["encoder"])
    match config:
        case DpaConfig():
            features = networks["features"]
            score: Score = CosineScore(features) if config.score == "cosine" else PerceptualScore(features)
            return Detector(encoder, networks["decoder"], score, input_px=config.input_px)
        case FanoganConfig():
            score = IziScore(networks["critic"], kappa=config.kappa)
            return Detector(encoder, networks["generator"], score, input_px=config.input_px)
