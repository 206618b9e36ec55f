"""A detector: map, reconstruct, score. The same object runs in batch, behind Serve and in plain Python."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from uadray.detectors.latents import KeptLatents, Latent, LatentMap, as_batch, row_of
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

SEARCHED_BATCH_PX = 128
"""The same where the stage `map` is a search, which keeps what every layer gave for its gradient."""

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
        searches: whether the stage `map` is a search of many steps: then latents are kept for pictures.
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
        searches: bool = False,
    ) -> None:
        self.mapping, self.reconstruct, self.score = mapping, reconstruct, score
        self.input_px, self.device = input_px, device
        self.has_picture, self.has_cells, self.memory, self.searches = has_picture, has_cells, memory, searches
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.batch_tiles = batch_tiles or default_batch(input_px, device.type, searches=searches)

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Scored:
        """Score RGB tiles [N, tile, tile, 3], N >= 1; a tile's score does not depend on the others in the call."""
        scores, cells, kept = [], [], KeptLatents()
        for x in self.inputs(pixels):
            z, score, residual = self._scored(x)
            scores.append(score)
            if self.has_cells:
                cells.append(pooled(residual))
            if self.searches:
                kept.add(score, z)
        # a GPU is waited for by `cpu`: until then all is only put into its queue
        return Scored(
            torch.cat(scores).cpu().double().numpy(),
            lambda rows: self.pictures(pixels[list(rows)], kept.of(rows)),
            lambda rows: self.maps(pixels[list(rows)], kept.of(rows)),
            torch.cat(cells).cpu().numpy() if cells else None,
        )

    def _scored(self, x: Tensor, known: Sequence[Latent | None] = ()) -> tuple[Latent, Tensor, Tensor]:
        with self.memory.batch() if self.memory is not None else nullcontext():
            z = self._latent(x, known)
            return z, *self.score(x, self.reconstruct(z), z)

    def _latent(self, x: Tensor, known: Sequence[Latent | None]) -> Latent:
        """The z of x, of which some tiles' may be known."""
        z = {row: latent for row, latent in enumerate(known) if latent is not None}
        missing = [row for row in range(len(x)) if row not in z]
        if not z:
            return self.mapping(x)
        if missing:
            made = self.mapping(x[missing].contiguous(memory_format=torch.channels_last))
            z |= {row: row_of(made, place) for place, row in enumerate(missing)}
        return as_batch([z[row] for row in range(len(x))])

    @torch.inference_mode()
    def pictures(self, pixels: Pixels, known: Sequence[Latent | None] = ()) -> tuple[Pixels, Pixels | None]:
        """What the detector looks at of tiles [N, tile, tile, 3], and its reconstruction or None: each [N, h, w, 3].

        Args:
            pixels: the tiles.
            known: the latent of each, where it need not be made again, see `latents.row_of`.
        """
        seen = np.ascontiguousarray(centre(pixels, self.input_px))
        if not self.has_picture:
            return seen, None
        x_hat = [self.reconstruct(self._latent(x, part)) for x, part in self._with_known(pixels, known)]
        if not x_hat:
            return seen, seen.copy()
        shown = [to_pixels(part) for part in x_hat if part is not None]
        return seen, np.concatenate(shown) if shown else None

    @torch.inference_mode()
    def maps(self, pixels: Pixels, known: Sequence[Latent | None] = ()) -> npt.NDArray[np.float32]:
        """Residual maps [N, h', w'] of RGB tiles [N, tile, tile, 3], N >= 1; `known` as of `pictures`."""
        maps = [self._scored(x, part)[2] for x, part in self._with_known(pixels, known)]
        return torch.cat(maps).float().cpu().numpy()

    def _with_known(
        self, pixels: Pixels, known: Sequence[Latent | None]
    ) -> Iterator[tuple[Tensor, Sequence[Latent | None]]]:
        """The batches of `inputs`, with what is known of each."""
        for number, x in enumerate(self.inputs(pixels)):
            yield x, known[number * self.batch_tiles : (number + 1) * self.batch_tiles]

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


def pooled(maps: Tensor) -> Tensor:
    """Maps [N, h, w] -> cells [N, k, k] float32, k at most `MOST`: means over areas."""
    height, width = maps.shape[1:]
    k = min(MOST, height, width)
    rows, columns = (torch.from_numpy(area_means(side, k)).to(maps.device) for side in (height, width))
    return rows @ maps.float() @ columns.T


def default_batch(input_px: int, device_type: str, *, searches: bool = False) -> int:
    """Tiles in one forward pass where nobody says.

    >>> [default_batch(input_px, "cpu") for input_px in (64, 256, 512, 1024)], default_batch(64, "cuda")
    ([64, 64, 16, 4], 128)
    >>> [default_batch(input_px, "cpu", searches=True) for input_px in (64, 128, 256)]
    [64, 64, 16]
    """
    most, full_px = GPU_BATCH if device_type == "cuda" else BATCH, SEARCHED_BATCH_PX if searches else FULL_BATCH_PX
    return max(1, most * full_px**2 // max(input_px, full_px) ** 2)


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
    searches: bool = False,
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
        searches: the stage `map` is a search of many steps, which is not made again for pictures.
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
        has_cells=has_cells, memory=memory, searches=searches,
    )  # fmt: skip


def no_picture(networks: Mapping[str, nn.Module]) -> Reconstruct:
    """The stage `reconstruct` of a detector that has no picture to show."""
    return lambda z: None


def _left_out(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("this stage of the detector was not loaded")
