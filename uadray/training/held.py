"""All tiles of a tile set, decoded once and held on the device as bytes: each batch is cut out of them there.

A GPU learns faster than a machine's cores decode. Every pass takes each tile once, in an order drawn anew; where a crop
lies in its tile and how it is turned is drawn for every batch. All of it follows from the seed and the number of tiles
taken, and is the same on a CPU.
"""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from uadray.detectors.pixels import to_float
from uadray.errors import InputError, WorkError, shown, shown_text
from uadray.training.config import TrainConfig
from uadray.training.crops import Crops, Job, Pixels, Source, noted
from uadray.training.device_crops import cut, restained
from uadray.training.journal import Journal
from uadray.training.passes import Ints
from uadray.training.slide_source import SlideSource

log = logging.getLogger(__name__)

MEMORY_SHARE = 0.3
"""Of the device's memory that tiles may take: on a CPU they lie there twice while they are put together."""

OF_SLIDES = "hold_tiles takes a tile set, not slides; cut their tiles first (uadray tile), or set it to false"

TILES_A_JOB, MOVED_TILES = 512, 1024
"""Decoded by a thread in one go, and sent to the device in one go."""


@dataclass(frozen=True)
class HeldPlace:
    """Where a training stands: tiles that it has taken."""

    taken: int = 0


class HeldTiles(Iterator[Tensor]):
    """X [batch, 3, side, side] in [-1, 1] on the device of the tiles, without end.

    Attributes:
        tiles: [n, h, w, 3] bytes.
        place: of the next tile, for a checkpoint.
    """

    def __init__(self, tiles: UInt8[Tensor, "n h w 3"], config: TrainConfig, *, place: HeldPlace | None = None) -> None:
        self.tiles, self.place = tiles, place or HeldPlace()
        self._config = config
        self._orders: dict[int, Ints] = {}

    def __next__(self) -> Tensor:
        config, taken = self._config, self.place.taken
        rng = np.random.default_rng([config.seed, taken, 3])
        numbers = self._numbers(taken, config.batch_size)
        height, width = self.tiles.shape[1:3]
        corners = [rng.integers(side - config.input_px + 1, size=len(numbers)) for side in (height, width)]
        drawn = np.stack([numbers, *corners, rng.integers(8, size=len(numbers))])
        crops = cut(self.tiles, torch.from_numpy(drawn).to(self.tiles.device), side=config.input_px)
        if config.stain_augment > 0:
            crops = restained(crops, rng, sigma=config.stain_augment)
        self.place = HeldPlace(taken + config.batch_size)
        return to_float(crops)

    def _numbers(self, taken: int, count: int) -> Ints:
        """Numbers of the next tiles, over the end of a pass into the next."""
        places = np.arange(taken, taken + count)
        passes = places // len(self.tiles)
        return np.concatenate([self._order(int(p))[places[passes == p] % len(self.tiles)] for p in np.unique(passes)])

    def _order(self, pass_number: int) -> Ints:
        """[n], the order of a pass."""
        if pass_number not in self._orders:
            rng = np.random.default_rng([self._config.seed, pass_number, 4])
            self._orders = {pass_number: rng.permutation(len(self.tiles))}
        return self._orders[pass_number]


def hold(source: Source, config: TrainConfig, *, device: torch.device) -> UInt8[Tensor, "n h w 3"]:
    """Decode all tiles that are trained on, in threads, and put them on the device.

    Raises:
        InputError: they are too many for the device, of several sizes, or of slides.
        WorkError: none can be read, or has enough tissue.
    """
    if isinstance(source, SlideSource):
        raise InputError(OF_SLIDES)
    journal = Journal()
    entries = np.arange(len(source.entry_tiles))
    groups = np.array_split(entries, max(1, int(source.entry_tiles.sum()) // TILES_A_JOB))
    jobs = [job for group in groups if len(group) for job in source.jobs(0, group)]
    read: list[tuple[int, int, Pixels]] = []
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="uadray-decode") as threads:
        try:
            for parts in threads.map(lambda job: _whole(job, journal), jobs):
                read += [(c.slide, n, image) for c in parts for n, image in zip(c.tiles, c.crops, strict=True)]
                _check_room(read, int(source.entry_tiles.sum()), device)
        finally:
            threads.shutdown(cancel_futures=True)
    for name, why in journal.take():
        log.warning("%s gives no tiles to this training: %s", shown(name), shown_text(why))
    if not read:
        raise WorkError("no tile can be read, or has enough tissue; nothing is left to train on")
    read.sort(key=lambda tile: tile[:2])  # threads and storage answer in any order
    return _placed([image for *_, image in read], device)


def _whole(job: Job, journal: Journal) -> list[Crops]:
    """All tiles of a job, uncropped."""
    return list(noted(job, lambda image: image, journal))


def _check_room(read: list[tuple[int, int, Pixels]], n_tiles: int, device: torch.device) -> None:
    """Refuse tiles that do not fit, once one of them is known."""
    if not read:
        return
    needed, room = n_tiles * read[0][2].nbytes, MEMORY_SHARE * _memory_bytes(device)
    if needed > room:
        raise InputError(
            f"hold_tiles: {n_tiles:,} tiles take {needed / 2**30:.1f} GiB, and {MEMORY_SHARE:.0%} of the memory of "
            f"{device} are {room / 2**30:.1f} GiB; set it to false (--set hold_tiles=false), or give fewer tiles"
        )


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _placed(images: list[Pixels], device: torch.device) -> UInt8[Tensor, "n h w 3"]:
    """Tiles of one size, on the device."""
    shapes = {image.shape[:2] for image in images}
    if len(shapes) > 1:
        some = ", ".join(f"{w}x{h}" for h, w in sorted(shapes)[:4])
        raise InputError(f"hold_tiles takes tiles of one size, and these are of {len(shapes)} ({some}); leave it out")
    held = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, device=device)
    for start in range(0, len(images), MOVED_TILES):
        part = images[start : start + MOVED_TILES]
        held[start : start + len(part)] = torch.from_numpy(np.stack(part)).to(device)
    return held
