"""The stream of a training without Ray: every pass has every tile once, and a place is exact."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from uadray.config import parse_config
from uadray.errors import InputError, WorkError
from uadray.training.config import TrainConfig
from uadray.training.crops import Crop, Crops, Job
from uadray.training.parts import Place
from uadray.training.passes import Ints
from uadray.training.stream import TileStream, read_here

SIDE_PX = 128
N_ENTRIES, ENTRY_TILES = 19, 32
N_TILES = N_ENTRIES * ENTRY_TILES  # 608 tiles, 85 to a block: 7 blocks a pass
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Coloured:
    """A source whose tiles have the colour of their number; some entries cannot be read."""

    broken: frozenset[int] = frozenset()

    @property
    def entry_tiles(self) -> Ints:
        return np.full(N_ENTRIES, ENTRY_TILES)

    @property
    def shares(self) -> np.ndarray:
        return np.empty(0)

    def jobs(self, pass_number: int, entries: Ints) -> list[Job]:
        return [Job(f"entry {e}", ENTRY_TILES, partial(self._read, int(e))) for e in entries]

    def _read(self, entry: int, crop: Crop) -> Iterator[Crops]:
        if entry in self.broken:
            raise InputError("torn")
        numbers = list(range(entry * ENTRY_TILES, (entry + 1) * ENTRY_TILES))
        tiles = [np.full((SIDE_PX, SIDE_PX, 3), (n % 256, n // 256, 0), np.uint8) for n in numbers]
        yield Crops(entry, numbers, [crop(tile) for tile in tiles], 0)


def _config(**changes: object) -> TrainConfig:
    detector = {"kind": "fanogan", "input_px": SIDE_PX, "width": 4, "latent_dim": 4}
    values = {"name": "s", "detector": detector, "tiles": {"mpp": 1.0, "tile_px": SIDE_PX}, "batch_size": 8}
    return parse_config(TrainConfig, values | {"shuffle_tiles": 200, "seed": 3} | changes, source="test")


def _numbers(x: Tensor) -> list[int]:
    low, high = ((x[:, channel, 0, 0] + 1) * 127.5 for channel in (0, 1))
    return (low.round() + 256 * high.round()).int().tolist()


def _taken(stream: TileStream, n_batches: int) -> list[int]:
    return [number for x in itertools.islice(stream, n_batches) for number in _numbers(x)]


@pytest.fixture(scope="module")
def taken() -> list[int]:
    """The tiles of two passes and more, from the beginning."""
    return _taken(read_here(Coloured(), _config(), device=CPU), 2 * N_TILES // 8 + 40)


def test_every_pass_has_every_tile_once() -> None:
    """A buffer of one block does not mix passes."""
    stream = read_here(Coloured(), _config(shuffle_tiles=2), device=CPU)
    numbers = _taken(stream, 2 * N_TILES // 8)
    assert sorted(numbers[:N_TILES]) == sorted(numbers[N_TILES:]) == list(range(N_TILES))
    assert numbers[:N_TILES] != numbers[N_TILES:]


def test_a_large_buffer_loses_nothing_and_mixes(taken: list[int]) -> None:
    """What is missing of two passes is still in a buffer; neighbours in an entry are not neighbours in a batch."""
    counts = np.bincount(taken, minlength=N_TILES)
    assert counts.min() >= 1
    entries = np.array(taken[: 8 * 50]).reshape(50, 8) // ENTRY_TILES
    assert np.mean([len(np.unique(batch)) for batch in entries]) > 4


@pytest.mark.parametrize("n_batches", [0, 1, 24, 25, 26, 77, 130])
def test_a_stream_goes_on_at_the_very_next_tile(taken: list[int], n_batches: int) -> None:
    first = read_here(Coloured(), _config(), device=CPU)
    _taken(first, n_batches)
    again = read_here(Coloured(), _config(), device=CPU, place=first.place)
    assert _taken(again, 20) == taken[8 * n_batches : 8 * (n_batches + 20)]


def test_seeds_differ(taken: list[int]) -> None:
    assert _taken(read_here(Coloured(), _config(seed=4), device=CPU), 10) != taken[:80]


def test_what_cannot_be_read_is_left_out_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    stream = read_here(Coloured(frozenset({4})), _config(shuffle_tiles=2), device=CPU)
    numbers = _taken(stream, 2 * (N_TILES - ENTRY_TILES) // 8)
    assert set(numbers) == set(range(N_TILES)) - set(range(4 * ENTRY_TILES, 5 * ENTRY_TILES))
    assert caplog.text.count("gives no more tiles to this training") == 1


def test_nothing_to_read_ends_it() -> None:
    with pytest.raises(WorkError, match="no tile of a whole pass can be read"):
        read_here(Coloured(frozenset(range(N_ENTRIES))), _config(), device=CPU)


def test_x_is_what_networks_take() -> None:
    stream = read_here(Coloured(), _config(), device=CPU, place=Place())
    x = next(stream)
    assert x.shape == (8, 3, SIDE_PX, SIDE_PX)
    assert x.dtype == torch.float32
    assert -1 <= x.min() <= x.max() <= 1
    assert x.is_contiguous(memory_format=torch.channels_last)
