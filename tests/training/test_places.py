"""Groups of workers share a stream of parts, and go on at the very tile, as computed without Ray."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from uadray.config import parse_config
from uadray.training.config import TrainConfig
from uadray.training.crops import crop_schema
from uadray.training.parts import Place, from_place
from uadray.training.places import Beginning, beginning
from uadray.training.ray_dataset import dealt_parts, packed, part_schema
from uadray.training.stream import TileStream

SIDE, N_PARTS = 2, 400
CONFIG = parse_config(
    TrainConfig,
    {"name": "p", "generator": {"kind": "wgan_gp", "input_px": 16}, "tiles": {"mpp": 1.0, "tile_px": 16},
     "batch_size": 8, "shuffle_tiles": 40, "seed": 3},
    source="test",
)  # fmt: skip
SIZES = np.random.default_rng(0).integers(0, 24, N_PARTS)
"""Tiles of each part; some have none."""

PARTS = [(block, part) for block in range(N_PARTS) for part in range(3 if block % 7 == 2 else 1)][:N_PARTS]
"""Blocks and their parts: every seventh block has three."""


def _row(number: int) -> pa.Table:
    """A part whose tiles have the colour of their number within all."""
    first = int(SIZES[:number].sum())
    crops = [np.full((SIDE, SIDE, 3), (n % 256, n // 256, 0), np.uint8) for n in range(first, first + SIZES[number])]
    none = pa.array([0] * len(crops), pa.int32())
    columns = [pa.array([crop.tobytes() for crop in crops], pa.binary(3 * SIDE**2)), none, none, none]
    return packed(pa.table(columns, schema=crop_schema(SIDE)), *PARTS[number])


def _dataset(begun: Beginning) -> Iterator[pa.Table]:
    """What readers send: empty rows, and all parts from a block on."""
    empty = packed(crop_schema(SIDE).empty_table(), -1, 0)
    yield from itertools.repeat(empty, begun.empty_rows)
    yield from (_row(n) for n, (block, _) in enumerate(PARTS) if block >= begun.first_block)


def _streams(progress: dict[str, Any] | None, world: int) -> list[TileStream]:
    """A group of workers as it begins, each with its share of the rows in turn."""
    begun = beginning(progress, 0, config=CONFIG, tiles_per_pass=10_000)
    streams = []
    for rank in range(world):
        rows = itertools.islice(_dataset(begun), rank, None, world)
        parts = dealt_parts(rows, SIDE, rank=rank, world=world, first_row=begun.first_row)
        place = begun.place(rank, world)
        streams.append(
            TileStream(from_place(parts, place), CONFIG, blocks_per_pass=99, device=torch.device("cpu"), place=place)
        )
    return streams


def _taken(streams: list[TileStream], n_batches: int) -> list[list[int]]:
    """The numbers of the tiles of the next batches, by worker."""
    taken = []
    for stream in streams:
        x = torch.cat([next(stream) for _ in range(n_batches)])
        low, high = ((x[:, channel, 0, 0] + 1) * 127.5 for channel in (0, 1))
        taken.append((low.round() + 256 * high.round()).int().tolist())
    return taken


def _kept(streams: list[TileStream]) -> dict[str, Any]:
    return {"places": [[asdict(stream.place) for stream in streams]], "tiles_taken": 0}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_group_goes_on_at_the_very_tiles_however_often_it_is_stopped(world: int) -> None:
    whole = _taken(_streams(None, world), 60)
    for stops in ([7, 53], [1, 1, 17, 41]):
        streams, found = _streams(None, world), [list[int]() for _ in range(world)]
        for n_batches in stops:
            for so_far, more in zip(found, _taken(streams, n_batches), strict=True):
                so_far.extend(more)
            streams = _streams(_kept(streams), world)
        assert found == whole
    flat = [number for tiles in whole for number in tiles]
    assert len(set(flat)) == len(flat) == world * 60 * 8, "no tile twice"


def test_a_group_of_another_size_begins_with_the_oldest_block_that_is_not_used_up() -> None:
    streams = _streams(None, 3)
    before = {number for tiles in _taken(streams, 30) for number in tiles}
    kept = _kept(streams)
    oldest = min(place["block"] for place in kept["places"][0])
    after = {number for tiles in _taken(_streams(kept, 2), 60) for number in tiles}
    first = int(SIZES[: next(n for n, (block, _) in enumerate(PARTS) if block == oldest)].sum())
    assert min(after) >= first
    assert set(range(first)) <= before, "nothing before it is left out"
    assert len(before & after) <= 3 * (40 + 24), "seen twice: no more than what buffers held"


def test_a_checkpoint_of_an_earlier_version_says_how_many_tiles_were_taken() -> None:
    begun = beginning({"tiles_taken": 10_000}, 0, config=CONFIG, tiles_per_pass=20_000)
    passes = max(1, round(20_000 * 3 * 16**2 / 2**22))
    assert begun == Beginning(first_block=passes // 2)
    assert begun.place(0, 1) is None


def test_a_row_is_a_part() -> None:
    row = _row(3)
    assert row.schema == part_schema()
    assert row.num_rows == 1
    (part,) = dealt_parts([row], SIDE, rank=1, world=2, first_row=6)
    assert part.place == Place(PARTS[3][0], part=PARTS[3][1], row=7)
    assert part.crops.shape == (SIZES[3], SIDE, SIDE, 3)
