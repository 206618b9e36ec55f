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
from uadray.scoring import IziScore, PerceptualScore, Score
from uadray.training.losses import relative_perceptual_l1, relative_perceptual_l2

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
    """Three stages, as plain callables, the input size they were trained for, and the device they are on."""

    def __init__(
        self,
        mapping: Mapping,
        reconstruct: Callable[[Tensor], Tensor],
        score: Score,
        *,
        input_px: int,
        device: torch.device,
    ) -> None:
        self.mapping, self.reconstruct, self.score = mapping, reconstruct, score
        self.input_px, self.device = input_px, device

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Scored:
        """Score RGB tiles [N, tile, tile, 3]; a tile's score does not depend on the others in the call."""
        parts = [self._batch(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
        return Scored(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _batch(self, pixels: Pixels) -> tuple[npt.NDArray[np.float64], Pixels, Pixels, npt.NDArray[np.float32]]:
        x = to_input(pixels, self.input_px).to(self.device)
        x_hat = self.reconstruct(self.mapping(x))
        score, residual = self.score(x, x_hat)
        return score.double().cpu().numpy(), to_pixels(x), to_pixels(x_hat), residual.float().cpu().numpy()


def build_detector(config: DpaConfig | FanoganConfig, networks: Networks, *, device: str = "cpu") -> Detector:
    """Put trained networks in their three places, on `device` ("cpu", "cuda")."""
    where = torch.device(device)
    for network in networks.values():
        network.eval().requires_grad_(False).to(where)
    encoder = EncoderMapping(networks["encoder"])
    match config:
        case DpaConfig():
            features = networks["features"]
            distance = relative_perceptual_l2 if config.score == "relative_l2" else relative_perceptual_l1
            score: Score = PerceptualScore(features, distance=distance)
            return Detector(encoder, networks["decoder"], score, input_px=config.input_px, device=where)
        case FanoganConfig():
            score = IziScore(networks["critic"], kappa=config.kappa)
            return Detector(encoder, networks["generator"], score, input_px=config.input_px, device=where)
