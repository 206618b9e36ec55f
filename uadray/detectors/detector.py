"""A detector: map, reconstruct, score. The same object runs in batch, behind Serve and in plain Python."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from uadray.detectors.latents import Latent, LatentMap
from uadray.detectors.pixels import Pixels, centre, staged, to_float, to_pixels
from uadray.detectors.scores import Score
from uadray.networks.remembered import Memory
from uadray.tiles.cells import MOST, Cells, area_means

BATCH = 64
"""Tiles in one forward pass on a CPU: larger is no faster there, and bounds the memory of the activations."""

GPU_BATCH = 128
"""And on a GPU, which small batches leave idle. Half of what a reader sends at once: one half travels while the other
is scored."""

FULL_BATCH_PX = 256
"""Up to inputs of this side; of larger ones a batch has as many pixels, not as many tiles: memory goes by pixels."""

Stage = Literal["map", "reconstruct", "score"]
STAGES: tuple[Stage, ...] = ("map", "reconstruct", "score")

Reconstruct = Callable[[Latent], Tensor | None]
"""z -> x_hat [N, 3, h, w], or None where a detector has no picture to show."""

Pictures = Callable[[Sequence[int]], tuple[Pixels, Pixels | None]]
"""Numbers of tiles -> what the detector looked at and its reconstruction, each [n, h, w, 3]; None without a picture."""

Maps = Callable[[Sequence[int]], npt.NDArray[np.float32]]
"""Numbers of tiles -> their residual maps, [n, h', w']."""


@dataclass(frozen=True)
class Scored:
    """What a detector says of N tiles. Pictures and maps are made when asked for: hardly any tile is ever shown.

    Attributes:
        score: [N] float64, higher = more abnormal.
        pictures: of chosen tiles.
        maps: of chosen tiles.
        cells: [N, k, k] of every tile, its map in at most `cells.MOST` cells a side; None from a detector without.
    """

    score: npt.NDArray[np.float64]
    pictures: Pictures
    maps: Maps
    cells: Cells | None = None


class Detector:
    """Three stages, as plain callables, the input size they were trained for, and the device they are on.

    Attributes:
        has_picture: whether it makes reconstructions; without them pictures of tiles need no stage.
        has_cells: whether the maps of all tiles are kept, in a few cells, beside their scores.
        memory: of features that several detectors within this one share; None where it has one backbone.
    """

    def __init__(
        self,
        mapping: LatentMap,
        reconstruct: Reconstruct,
        score: Score,
        *,
        input_px: int,
        device: torch.device,
        batch_tiles: int | None = None,
        has_picture: bool = True,
        has_cells: bool = False,
        memory: Memory | None = None,
    ) -> None:
        self.mapping, self.reconstruct, self.score = mapping, reconstruct, score
        self.input_px, self.device = input_px, device
        self.has_picture, self.has_cells, self.memory = has_picture, has_cells, memory
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.batch_tiles = batch_tiles or default_batch(input_px, device.type)

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Scored:
        """Score RGB tiles [N, tile, tile, 3], N >= 1; a tile's score does not depend on the others in the call."""
        scores, cells, latents = [], [], []
        for x in self.inputs(pixels):
            z, score, residual = self._outcome(x)
            scores.append(score)
            if self.has_cells:
                cells.append(pooled(residual))
            if self.has_picture:
                latents.append(z)
        # a GPU is waited for by `cpu`: until then all is only put into its queue
        values = torch.cat(scores).cpu().double().numpy()
        parts = torch.cat(cells).cpu().numpy() if cells else None
        if self.has_picture:
            mapped = Mapped(self, pixels, latents)
            return Scored(values, mapped.pictures, mapped.maps, parts)
        return Scored(
            values,
            lambda rows: self.pictures(pixels[list(rows)]),
            lambda rows: self.maps(pixels[list(rows)]),
            parts,
        )

    def _outcome(self, x: Tensor) -> tuple[Latent, Tensor, Tensor]:
        """Latents, scores and maps of a batch."""
        with self.memory.batch() if self.memory is not None else nullcontext():
            z = self.mapping(x)
            return z, *self.score(x, self.reconstruct(z), z)

    def _scored(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._outcome(x)[1:]

    @torch.inference_mode()
    def pictures(self, pixels: Pixels) -> tuple[Pixels, Pixels | None]:
        """What the detector looks at of tiles [N, tile, tile, 3], and its reconstruction or None: each [N, h, w, 3]."""
        seen = np.ascontiguousarray(centre(pixels, self.input_px))
        if not self.has_picture:
            return seen, None
        x_hat = [self.reconstruct(self.mapping(x)) for x in self.inputs(pixels)]
        if not x_hat:
            return seen, seen.copy()
        shown = [to_pixels(part) for part in x_hat if part is not None]
        return seen, np.concatenate(shown) if shown else None

    @torch.inference_mode()
    def maps(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Residual maps [N, h', w'] of RGB tiles [N, tile, tile, 3], N >= 1."""
        return torch.cat([self._scored(x)[1] for x in self.inputs(pixels)]).float().cpu().numpy()

    def inputs(self, pixels: Pixels) -> Iterator[Tensor]:
        """RGB tiles [N, tile, tile, 3] -> batches x [n, 3, h, w] in [-1, 1], on the device."""
        for start in range(0, len(pixels), self.batch_tiles):
            yield to_float(self._sent(pixels[start : start + self.batch_tiles]))

    def _sent(self, pixels: Pixels) -> Tensor:
        """Bytes [n, h, w, 3] on the device. A GPU fetches them while it still works on the batch before."""
        if self._copies is None:
            return staged(pixels, self.input_px)
        working = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            sent = staged(pixels, self.input_px, is_pinned=True).to(self.device, non_blocking=True)
        working.wait_stream(self._copies)
        sent.record_stream(working)
        return sent


class Mapped:
    """Tiles whose latents are known: a mapping may take a thousand steps, and is not made again for pictures.

    Args:
        detector: that has mapped them.
        pixels: RGB tiles [N, tile, tile, 3].
        latents: of them, in its batches.
    """

    def __init__(self, detector: Detector, pixels: Pixels, latents: Sequence[Latent]) -> None:
        self.detector, self.tiles, self.latents = detector, pixels, latents
        self._step = detector.batch_tiles

    @torch.inference_mode()
    def pictures(self, rows: Sequence[int]) -> tuple[Pixels, Pixels | None]:
        """What the detector looked at of tiles, and its reconstruction or None: each [n, h, w, 3]."""
        seen = np.ascontiguousarray(centre(self.tiles[list(rows)], self.detector.input_px))
        x_hat = [self.detector.reconstruct(z) for z in self._batches(rows)]
        if not x_hat:
            return seen, seen.copy()
        shown = [to_pixels(part) for part in x_hat if part is not None]
        return seen, np.concatenate(shown) if shown else None

    @torch.inference_mode()
    def maps(self, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        """Residual maps [n, h', w'] of tiles, n >= 1."""
        detector = self.detector
        pairs = zip(detector.inputs(self.tiles[list(rows)]), self._batches(rows), strict=True)
        found = [detector.score(x, detector.reconstruct(z), z)[1] for x, z in pairs]
        return torch.cat(found).float().cpu().numpy()

    def _batches(self, rows: Sequence[int]) -> Iterator[Latent]:
        """The latents of tiles, as many at a time as the detector takes."""
        step = self.detector.batch_tiles
        for start in range(0, len(rows), step):
            places = [divmod(int(row), self._step) for row in rows[start : start + step]]
            yield _latents_at(self.latents, places)


def _latents_at(latents: Sequence[Latent], places: Sequence[tuple[int, int]]) -> Latent:
    """Those at places (batch, row of it), as one batch."""
    if isinstance(latents[0], tuple):
        parts = zip(*cast(Sequence[tuple[Latent, ...]], latents), strict=True)
        return tuple(_latents_at(part, places) for part in parts)
    return torch.stack([cast(Tensor, latents[batch])[row] for batch, row in places])


def pooled(maps: Tensor) -> Tensor:
    """Maps [N, h, w] -> cells [N, k, k] float32, k at most `MOST`: means over areas."""
    height, width = maps.shape[1:]
    k = min(MOST, height, width)
    rows, columns = (torch.from_numpy(area_means(side, k)).to(maps.device) for side in (height, width))
    return rows @ maps.float() @ columns.T


def default_batch(input_px: int, device_type: str) -> int:
    """Tiles in one forward pass where nobody says.

    >>> [default_batch(input_px, "cpu") for input_px in (64, 256, 512, 1024)], default_batch(64, "cuda")
    ([64, 64, 16, 4], 128)
    """
    most = GPU_BATCH if device_type == "cuda" else BATCH
    return max(1, most * FULL_BATCH_PX**2 // max(input_px, FULL_BATCH_PX) ** 2)


class PlacedNetworks(Mapping[str, nn.Module]):
    """Networks as they score: in evaluation mode, frozen, on their device. Those not asked for are left as they are."""

    def __init__(self, networks: Mapping[str, nn.Module], device: torch.device) -> None:
        self._networks, self._device = networks, device

    def __getitem__(self, name: str) -> nn.Module:
        network = self._networks[name].eval().requires_grad_(False).to(self._device)
        return network.to(memory_format=torch.channels_last)  # as tiles lie: f-AnoGAN takes 0.75 of the time on a CPU

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)


def assemble(
    networks: Mapping[str, nn.Module],
    *,
    mapping: Callable[[PlacedNetworks], LatentMap],
    reconstruct: Callable[[PlacedNetworks], Reconstruct],
    score: Callable[[PlacedNetworks], Score],
    input_px: int,
    device: str,
    batch_tiles: int | None = None,
    stages: Collection[Stage] = STAGES,
    has_cells: bool = False,
    memory: Memory | None = None,
) -> Detector:
    """A detector from its three stages, of which only those asked for are made.

    Args:
        networks: by name; those that the asked stages use are enough.
        mapping: makes the stage `map` of the networks in their places; `reconstruct` and `score` likewise.
        reconstruct: see above; `no_picture` for a detector that makes none.
        score: see above.
        input_px: side of the network's input.
        device: "cpu" or "cuda".
        batch_tiles: tiles in one forward pass; None: see `default_batch`.
        stages: that will be used; calling another is an error.
        has_cells: keep the map of every tile, in a few cells, for the heatmap of a slide. For a detector whose maps
            say more than its scores, and whose cells are calibrated.
        memory: for a detector of several, which share features.
    """
    place = torch.device(device)
    if place.type == "cuda":
        # cuDNN's default has ten bits of each factor: scores would not be those of a CPU, nor fit its calibrations
        torch.backends.cudnn.allow_tf32 = False
    placed = PlacedNetworks(networks, place)
    return Detector(
        mapping(placed) if "map" in stages else _left_out,
        reconstruct(placed) if "reconstruct" in stages else _left_out,
        score(placed) if "score" in stages else _left_out,
        input_px=input_px, device=place, batch_tiles=batch_tiles, has_picture=reconstruct is not no_picture,
        has_cells=has_cells, memory=memory,
    )  # fmt: skip


def no_picture(networks: Mapping[str, nn.Module]) -> Reconstruct:
    """The stage `reconstruct` of a detector that has no picture to show."""
    return lambda z: None


def _left_out(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("this stage of the detector was not loaded")
