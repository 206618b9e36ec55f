"""Tiles that are held on the device: each once a pass, crops where they lie, the same from any place, and refusals."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import torch

from uadray.config import parse_config
from uadray.detectors.pixels import to_pixels
from uadray.errors import InputError, WorkError
from uadray.tiles.stain_augment import augment
from uadray.training import held
from uadray.training.config import TrainConfig
from uadray.training.crops import Crop, Crops, Job
from uadray.training.device_crops import cut, restained
from uadray.training.held import HeldPlace, HeldTiles, hold
from uadray.training.passes import Ints
from uadray.training.slide_source import SlideSource

N_ENTRIES, ENTRY_TILES, SIDE_PX = 5, 7, 24
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Coloured:
    """A source whose tiles have the colour of their number; some entries cannot be read, or have other sizes."""

    broken: frozenset[int] = frozenset()
    sides: dict[int, int] = field(default_factory=dict)

    @property
    def entry_tiles(self) -> Ints:
        return np.full(N_ENTRIES, ENTRY_TILES)

    @property
    def shares(self) -> np.ndarray:
        return np.empty(0)

    def jobs(self, pass_number: int, entries: Ints) -> list[Job]:
        return [Job(f"entry {e}", ENTRY_TILES, partial(self._read, int(e))) for e in reversed(entries)]

    def _read(self, entry: int, crop: Crop) -> Iterator[Crops]:
        if entry in self.broken:
            raise InputError("torn")
        side = self.sides.get(entry, SIDE_PX)
        numbers = list(range(entry * ENTRY_TILES, (entry + 1) * ENTRY_TILES))
        yield Crops(entry, numbers, [crop(np.full((side, side, 3), n, np.uint8)) for n in numbers], 0)


def _config(**changes: object) -> TrainConfig:
    detector = {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 4}
    values = {"name": "s", "detector": detector, "tiles": {"mpp": 1.0, "tile_px": 16}, "batch_size": 4, "seed": 3}
    return parse_config(TrainConfig, values | {"hold_tiles": True} | changes, source="test")


def _numbers(stream: HeldTiles, n_batches: int) -> list[int]:
    return [int(n) for _ in range(n_batches) for n in to_pixels(next(stream))[:, 0, 0, 0]]


def test_every_pass_has_each_tile_once_and_a_place_is_exact() -> None:
    tiles = hold(Coloured(), _config(), device=CPU)
    assert tiles[:, 0, 0, 0].tolist() == list(range(N_ENTRIES * ENTRY_TILES)), "whatever the order of reading"
    stream = HeldTiles(tiles, _config())
    taken = _numbers(stream, 35)  # four passes of 35 tiles, in batches of 4 that lie across their ends
    passes = [taken[i : i + 35] for i in range(0, 140, 35)]
    assert all(sorted(p) == list(range(35)) for p in passes)
    assert len({tuple(p) for p in passes}) == 4
    again = HeldTiles(tiles, _config(), place=HeldPlace(36))
    assert _numbers(again, 10) == taken[36:76]
    assert again.place == HeldPlace(76)
    assert _numbers(HeldTiles(tiles, _config(seed=4)), 35) != taken


def test_the_same_crops_come_after_a_resume_and_all_lie_within_the_tiles() -> None:
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 24, 20, 3), np.uint8))
    first = HeldTiles(tiles, _config(batch_size=32))
    next(first)
    x = next(first)
    assert torch.equal(next(HeldTiles(tiles, _config(batch_size=32), place=HeldPlace(32))), x)
    assert x.is_contiguous(memory_format=torch.channels_last)
    windows = {
        tile[y : y + 16, x : x + 16].tobytes()
        for image in tiles.numpy()
        for mirrored in (image, image[:, ::-1])
        for tile in (np.ascontiguousarray(np.rot90(mirrored, k)) for k in range(4))
        for y in range(tile.shape[0] - 15)
        for x in range(tile.shape[1] - 15)
    }
    crops = [np.ascontiguousarray(crop).tobytes() for crop in to_pixels(x)]
    assert set(crops) <= windows
    assert len(set(crops)) == 32


def test_a_crop_is_turned_in_eight_ways() -> None:
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    drawn = torch.stack([torch.zeros(8, dtype=torch.long)] * 3 + [torch.arange(8)])
    crops = cut(torch.from_numpy(image)[None], drawn, side=8).numpy()
    ways = {np.rot90(mirrored, k).tobytes() for mirrored in (image, image[:, ::-1]) for k in range(4)}
    assert {np.ascontiguousarray(crop).tobytes() for crop in crops} == ways


def test_stain_is_varied_as_the_readers_vary_it() -> None:
    images = np.random.default_rng(2).integers(0, 256, (6, 16, 16, 3), np.uint8)
    ours = restained(torch.from_numpy(images), np.random.default_rng(7), sigma=0.2).numpy()
    theirs = augment(images, np.random.default_rng(7), sigma_alpha=0.2, sigma_beta=0.2)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    assert np.abs(ours.astype(int) - images.astype(int)).mean() > 5
    held_plain, varied = (
        next(HeldTiles(torch.from_numpy(images), _config(stain_augment=sigma))) for sigma in (0.0, 0.2)
    )
    assert not torch.equal(held_plain, varied)


def test_what_cannot_be_held_is_refused(source: SlideSource, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"tiles of one size, and these are of 2 \(24x24, 32x32\)"):
        hold(Coloured(sides={2: 32}), _config(), device=CPU)
    with pytest.raises(WorkError, match="no tile can be read"):
        hold(Coloured(broken=frozenset(range(N_ENTRIES))), _config(), device=CPU)
    with pytest.raises(InputError, match="a tile set, not slides; cut their tiles first"):
        hold(source, _config(), device=CPU)
    monkeypatch.setattr(held, "_memory_bytes", lambda device: 100_000)
    with pytest.raises(InputError, match=r"35 tiles take .* 30% of the memory of cpu"):
        hold(Coloured(), _config(), device=CPU)


def test_what_cannot_be_read_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    tiles = hold(Coloured(broken=frozenset({1})), _config(), device=CPU)
    assert len(tiles) == (N_ENTRIES - 1) * ENTRY_TILES
    assert "gives no tiles to this training" in caplog.text
