"""Training on Ray: workers share every pass without overlap, and slides are mixed."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from training_slides import N_SLIDES, PER_SLIDE, SPEC, write_slide

from uadray.commands.tile import tile_set
from uadray.errors import InputError, shown
from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.identity import Seen, content, is_seen
from uadray.slides.manifest import SlideRow, read_manifest, write_manifest
from uadray.training.crops import Crop, Crops, Job
from uadray.training.parts import Part, buffers
from uadray.training.passes import Ints, mixing
from uadray.training.ray_dataset import TrainingData, crop_data, dealt_parts, training_data
from uadray.training.slide_source import SlideSource

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* is deprecated:DeprecationWarning:ray.data.context"
)  # Ray, of its own options


def made_data(uri: str, **options: Any) -> TrainingData:
    defaults: dict[str, Any] = {"tiles_per_slide": PER_SLIDE, "label": "normal"}
    return training_data(uri, tiles=SPEC, input_px=32, **defaults | options)


@ray.remote(num_cpus=0)
def _dealt_to_a_worker(shard: Any, *, rank: int, world: int, end: int) -> list[Part]:
    """Pass, slide and tile [n, 3] in place of the crops of every part, as a training worker gets them."""
    rows: list[pa.Table] = []

    def noted() -> Iterator[pa.Table]:
        for row in shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            rows.append(row)
            yield row

    found: list[Part] = []
    for part in dealt_parts(noted(), 32, rank=rank, world=world, first_row=0):
        if part.place.block >= end:
            return found
        slide, tile = (rows[-1][name].combine_chunks().flatten().to_numpy() for name in ("slide", "tile"))
        assert len(part.crops) == len(slide)
        turn = np.full(len(slide), rows[-1]["pass_number"][0].as_py())
        found.append(Part(part.place, np.stack([turn, slide, tile], axis=1)))
    raise AssertionError("the dataset has an end")


def _dealt(data: TrainingData, *, passes: int, world: int, **options: Any) -> list[list[Part]]:
    """The parts of the first passes, by worker."""
    shards = data.dataset(**options).streaming_split(world, equal=True)
    end = passes * data.passes.blocks_per_pass
    return list(ray.get([_dealt_to_a_worker.remote(s, rank=n, world=world, end=end) for n, s in enumerate(shards)]))


def _joined(parts: list[Part]) -> np.ndarray:
    return np.concatenate([part.crops for part in parts])


def _check_shared_and_mixed(data: TrainingData, *, passes: int) -> None:
    workers = _dealt(data, passes=passes, world=2)
    rows = np.concatenate([_joined(parts) for parts in workers])
    for turn in range(passes):
        tiles = rows[rows[:, 0] == turn]
        assert len(tiles) == len(np.unique(tiles, axis=0)) == data.n_tiles
    assert len(rows) == passes * data.n_tiles
    for parts in workers:
        slides = [b.crops[:, 1] for b in buffers(iter(parts), seed=0, shuffle_tiles=256, blocks_per_pass=99)]
        batches = [each[n : n + 32] for each in slides for n in range(0, len(each) - 31, 32)]
        assert len(batches) > 10
        assert mixing(batches, data.shares) > 0.9


@pytest.mark.ray
def test_two_workers_share_every_pass_and_see_all_slides(ray_cluster: None, manifest: str) -> None:
    data = made_data(manifest)
    assert data.n_tiles == N_SLIDES * PER_SLIDE
    assert data.description["n_slides"] == N_SLIDES
    _check_shared_and_mixed(data, passes=3)


@pytest.mark.ray
def test_parts_are_dealt_in_turn_and_go_on_where_they_were(ray_cluster: None, manifest: str) -> None:
    """One block a pass, to three workers; from the middle, to those who had them before."""
    data, world = made_data(manifest), 3
    starts: list[dict[str, int]] = [{}, {"first_block": 5, "empty_rows": 2}]
    for options in starts:
        workers = _dealt(data, passes=9, world=world, **options)
        for rank, parts in enumerate(workers):
            first = options.get("first_block", 0)
            assert [part.place.block for part in parts] == [n for n in range(first, 9) if n % world == rank]


@pytest.mark.ray
def test_shards_are_shared_and_mixed_alike(ray_cluster: None, manifest: str, tmp_path: Path) -> None:
    rows = read_manifest(manifest)
    tile_set(rows, SPEC, str(tmp_path / "set"), tiles_per_slide=PER_SLIDE)
    data = made_data(str(tmp_path / "set"))
    assert data.n_tiles == N_SLIDES * PER_SLIDE
    _check_shared_and_mixed(data, passes=3)


@pytest.mark.ray
def test_slides_that_cannot_be_used_are_left_out_and_counted(
    ray_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The bundle's description and the log name neither them nor their files."""
    good = replace(write_slide(tmp_path / "good.tif", 1), label="Normal")
    (tmp_path / "torn.tif").write_bytes(b"no slide")
    glass = np.full((256, 256, 3), 244, np.uint8)
    write_pyramid(tmp_path / "glass.tif", glass, mpp=1.0, tile_px=128)
    rows = [SlideRow(n, str(tmp_path / f"{n}.tif")) for n in ("torn", "glass")]
    write_manifest([good, *rows], str(tmp_path / "m.csv"))
    data = made_data(str(tmp_path / "m.csv"))
    assert data.n_tiles == PER_SLIDE
    assert data.description["left_out"] == {"unreadable": 1, "no tile with enough tissue": 1}
    assert f"slide {shown('torn')} is left out of the training: unreadable" in caplog.text
    for text in (json.dumps(data.description), caplog.text):
        assert not any(word in text for word in ("good", "torn", "glass", "m.csv"))
    seen = Seen(data.description["salt"], frozenset(data.description["slides"]))
    assert is_seen(good, seen)
    assert is_seen(SlideRow("other", "/x.tif"), seen, content=content(good.uri))
    assert not is_seen(rows[0], seen)
    write_manifest(rows, str(tmp_path / "n.csv"))
    with pytest.raises(InputError, match=r"none of 2 slides can be used; the first: .*torn"):
        made_data(str(tmp_path / "n.csv"))


@pytest.fixture
def sent_to_workers() -> Iterator[None]:
    """What this file defines: workers cannot import it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class Deadly:
    """Slides of which one kills whoever reads it."""

    slides: SlideSource
    slide_id: str

    @property
    def entry_tiles(self) -> Ints:
        return self.slides.entry_tiles

    @property
    def shares(self) -> np.ndarray:
        return self.slides.shares

    def jobs(self, pass_number: int, entries: Ints) -> list[Job]:
        jobs = self.slides.jobs(pass_number, entries)
        return [Job(j.name, j.n_tiles, _die if j.name == self.slide_id else j.read) for j in jobs]


def _die(crop: Crop) -> Iterator[Crops]:
    time.sleep(0.3)  # others are being read
    os.kill(os.getpid(), signal.SIGKILL)
    yield from ()


@pytest.mark.ray
def test_a_slide_that_kills_its_reader_costs_its_tiles_and_is_named(
    ray_cluster: None, sent_to_workers: None, source: SlideSource
) -> None:
    deadly = Deadly(source, "s3")
    data = crop_data(deadly, tiles=SPEC, input_px=32, seed=0)
    (parts,) = _dealt(data, passes=2, world=1)
    rows = _joined(parts)
    assert len(rows) == len(np.unique(rows, axis=0)) == 2 * (N_SLIDES - 1) * PER_SLIDE
    assert 3 not in rows[:, 1]
    assert ray.get(data.journal.take.remote()) == [("s3", "crashed: 2 processes died while they read it")]
