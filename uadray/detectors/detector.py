"""A detector: map, reconstruct, score. The same object runs in batch, behind Serve and in plain Python."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from uadray.detectors.catalog import DetectorConfig, DpaConfig, FanoganConfig, Networks
from uadray.detectors.latents import EncoderMapping, Mapping
from uadray.detectors.losses import relative_perceptual_l1, relative_perceptual_l2
from uadray.detectors.pixels import Pixels, centre, staged, to_float, to_pixels
from uadray.detectors.scores import IziScore, PerceptualScore, Score

BATCH = 64
"""Tiles in one forward pass on a CPU: larger is no faster there, and bounds the memory of the activations."""

GPU_BATCH = 128
"""And on a GPU, which small batches leave idle. Half of what a reader sends at once: one half travels while the other
is scored."""

FULL_BATCH_PX = 256
"""Up to inputs of this side; of larger ones a batch has as many pixels, not as many tiles: memory goes by pixels."""

Stage = Literal["map", "reconstruct", "score"]
STAGES: tuple[Stage, ...] = ("map", "reconstruct", "score")

Pictures = Callable[[Sequence[int]], tuple[Pixels, Pixels]]
"""Numbers of tiles -> what the detector looked at and its reconstruction, each [n, h, w, 3]."""


@dataclass(frozen=True)
class Scored:
    """What a detector says of N tiles.

    Attributes:
        score: [N] float64, higher = more abnormal.
        residual: [N, h', w'] float32.
        pictures: of chosen tiles. They are made when they are asked for, since hardly any tile is ever shown.
    """

    score: npt.NDArray[np.float64]
    residual: npt.NDArray[np.float32]
    pictures: Pictures


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
        batch_tiles: int | None = None,
    ) -> None:
        self.mapping, self.reconstruct, self.score = mapping, reconstruct, score
        self.input_px, self.device = input_px, device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.batch_tiles = batch_tiles or default_batch(input_px, device.type)

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Scored:
        """Score RGB tiles [N, tile, tile, 3], N >= 1; a tile's score does not depend on the others in the call."""
        parts = [self.score(x, self.reconstruct(self.mapping(x))) for x in self.inputs(pixels)]
        # a GPU is waited for here, once: until then all is only put into its queue
        score, residual = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
        return Scored(score.double().numpy(), residual.float().numpy(), lambda rows: self.pictures(pixels[list(rows)]))

    @torch.inference_mode()
    def pictures(self, pixels: Pixels) -> tuple[Pixels, Pixels]:
        """What the detector looks at of tiles [N, tile, tile, 3], and its reconstruction: each [N, h, w, 3]."""
        x_hat = [to_pixels(self.reconstruct(self.mapping(x))) for x in self.inputs(pixels)]
        seen = np.ascontiguousarray(centre(pixels, self.input_px))
        return seen, np.concatenate(x_hat) if x_hat else seen.copy()

    def inputs(self, pixels: Pixels) -> Iterator[Tensor]:
        """RGB tiles [N, tile, tile, 3] -> batches x [n, 3, h, w] in [-1, 1], on the device."""
        for start in range(0, len(pixels), self.batch_tiles):
            yield to_float(self._sent(pixels[start : start + self.batch_tiles]))

    def _sent(self, pixels: Pixels) -> Tensor:
        """Bytes [n, h, w, 3] on the device. A GPU fetches them while it still works on the batch before."""
        if self._copies is None:
            return staged(pixels, self.input_px)
        own = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            sent = staged(pixels, self.input_px, is_pinned=True).to(self.device, non_blocking=True)
        own.wait_stream(self._copies)
        sent.record_stream(own)
        return sent


def default_batch(input_px: int, device_type: str) -> int:
    """Tiles in one forward pass where nobody says.

    >>> [default_batch(input_px, "cpu") for input_px in (64, 256, 512, 1024)], default_batch(64, "cuda")
    ([64, 64, 16, 4], 128)
    """
    most = GPU_BATCH if device_type == "cuda" else BATCH
    return max(1, most * FULL_BATCH_PX**2 // max(input_px, FULL_BATCH_PX) ** 2)


def network_names(config: DetectorConfig) -> dict[Stage, str]:
    """Which network each stage works with, see `build_networks`."""
    match config:
        case DpaConfig():
            return {"map": "encoder", "reconstruct": "decoder", "score": "features"}
        case FanoganConfig():
            return {"map": "encoder", "reconstruct": "generator", "score": "critic"}


def build_detector(
    config: DetectorConfig, networks: Networks, *, device: str = "cpu", batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
) -> Detector:  # fmt: skip
    """Put trained networks in their three places.

    Args:
        config: of the detector.
        networks: by name; those of `stages` are enough.
        device: "cpu" or "cuda".
        batch_tiles: tiles in one forward pass; None: see `default_batch`.
        stages: that will be used; calling another is an error.
    """
    where = torch.device(device)
    if where.type == "cuda":
        # cuDNN's default has ten bits of each factor: scores would not be those of a CPU, nor fit its calibrations
        torch.backends.cudnn.allow_tf32 = False
    names = network_names(config)
    own = {stage: networks[names[stage]].eval().requires_grad_(False).to(where) for stage in stages}
    for network in own.values():
        network.to(memory_format=torch.channels_last)  # as tiles lie: f-AnoGAN takes 0.75 of the time on a CPU
    return Detector(
        EncoderMapping(own.get("map", _LeftOut())),
        own.get("reconstruct", _LeftOut()),
        _score(config, own["score"]) if "score" in own else _LeftOut(),
        input_px=config.input_px, device=where, batch_tiles=batch_tiles,
    )  # fmt: skip


def _score(config: DetectorConfig, network: nn.Module) -> Score:
    match config:
        case DpaConfig():
            distance = relative_perceptual_l2 if config.score == "relative_l2" else relative_perceptual_l1
            return PerceptualScore(network, distance=distance)
        case FanoganConfig():
            return IziScore(network, kappa=config.kappa)


class _LeftOut(nn.Module):
    def forward(self, *_: Tensor) -> NoReturn:
        raise RuntimeError("this stage of the detector was not loaded")
