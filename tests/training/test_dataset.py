"""Training ingest: what a pass draws, how slides are mixed, and that workers share every pass without overlap."""

import json
import os
import signal
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from seaweed import SeaweedServer

from uadray.commands.tile import tile_set
from uadray.errors import InputError, UadrayError, WorkError, shown
from uadray.phantoms.pyramid import write_pyramid
from uadray.slides.identity import Seen, content, is_seen
from uadray.slides.manifest import SlideRow, read_manifest, write_manifest
from uadray.slides.opening import open_slide
from uadray.slides.tile_reading import read_tile
from uadray.storage import objects
from uadray.tiles.spec import TileSpec
from uadray.training.crops import Crop, Crops, Job, crop_blocks, crop_pixels, random_crop
from uadray.training.dataset import slide_source, taken_labels
from uadray.training.journal import Journal
from uadray.training.passes import Ints, Passes, along_curve, mixing, pack_corners, plan_passes, unpack_corners
from uadray.training.ray_dataset import TrainingData, crop_data, on_cluster, training_data
from uadray.training.slide_source import OpenSlides, SlideSource
from uadray.training.survey import survey, survey_slide

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* is deprecated:DeprecationWarning:ray.data.context"
)  # Ray, of its own options

SPEC = TileSpec(mpp=1.0, tile_px=32, quality=None)
N_SLIDES = 8
PER_SLIDE = 120


def _write_slide(path: Path, seed: int, *, size_px: int = 512) -> SlideRow:
    """Tissue everywhere, no two tiles alike: 256 tiles of 32 px."""
    small = np.random.default_rng(seed).integers(0, 80, (size_px // 8, size_px // 8, 3), dtype=np.uint8)
    image = np.array([210, 110, 180], np.uint8) - cv2.resize(small, (size_px, size_px))
    write_pyramid(path, image, mpp=1.0, tile_px=128)
    return SlideRow(path.stem, str(path))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("slides")
    rows = [_write_slide(folder / f"s{i}.tif", i) for i in range(N_SLIDES)]
    write_manifest(rows, str(folder / "m.csv"))
    return str(folder / "m.csv")


@pytest.fixture(scope="module")
def source(manifest: str) -> SlideSource:
    surveys = [survey_slide(row, SPEC) for row in read_manifest(manifest)]
    return slide_source(surveys, SPEC, per_slide=PER_SLIDE, seed=7)


def _plan(source: SlideSource, *, passes: int, max_tasks: int = 2000, input_px: int = 32) -> Passes:
    n = int(source.entry_tiles.sum())
    return plan_passes(n, seed=7, n_tiles=n * (passes - 1), input_px=input_px, max_tasks=max_tasks)


def _read(source: SlideSource, passes: Passes, tasks: range | None = None, **options: Any) -> pa.Table:
    found = [
        table
        for task in tasks or range(passes.n_tasks)
        for table in crop_blocks(source, passes, task, input_px=32, **{"stain_augment": 0.0} | options)
    ]
    return pa.concat_tables(found)


@given(
    entries=st.lists(st.integers(1, 300), min_size=1, max_size=60),
    passes=st.integers(1, 5),
    max_tasks=st.integers(1, 20),
    input_px=st.sampled_from([64, 256, 512]),
)
def test_every_pass_has_every_entry_once(entries: list[int], passes: int, max_tasks: int, input_px: int) -> None:
    tiles = np.array(entries)
    n = int(tiles.sum())
    plan = plan_passes(n, seed=1, n_tiles=passes * n, input_px=input_px, max_tasks=max_tasks, done_tiles=3 * n)
    assert plan.n_tasks <= max_tasks
    assert plan.n_blocks == (passes + 1) * plan.blocks_per_pass
    seen: dict[int, list[int]] = {}
    for task in range(plan.n_tasks):
        for turn, _, some in plan.blocks(task, tiles):
            seen.setdefault(turn, []).extend(some.tolist())
    assert list(seen) == list(range(3, 4 + passes))
    assert all(sorted(found) == list(range(len(tiles))) for found in seen.values())


def test_a_block_is_about_four_megabytes() -> None:
    tiles = np.full(5000, 32)  # 160 slides, 1,000 tiles of each
    plan = plan_passes(160_000, seed=0, n_tiles=0, input_px=64)
    sizes = [tiles[e].sum() * 3 * 64**2 for task in range(40) for _, _, e in plan.blocks(task, tiles)]
    assert 3.5 * 2**20 < min(sizes) <= max(sizes) < 4.5 * 2**20
    assert plan_passes(160_000, seed=0, n_tiles=10**9, input_px=64).n_tasks <= 2000


def test_a_run_along_the_curve_is_a_patch() -> None:
    y, x = (a.ravel() for a in np.mgrid[:16, :16])
    order = along_curve(x, y)
    assert sorted(order.tolist()) == list(range(256))
    for run in order.reshape(16, 16):
        assert np.ptp(x[run]) == np.ptp(y[run]) == 3


def test_mixing_by_hand() -> None:
    shares = np.full(4, 0.25)
    assert mixing([np.array([0, 0]), np.array([1, 1])], shares) == pytest.approx(1 / 1.75)
    assert mixing([np.array([0, 1]), np.array([2, 3]), np.array([1, 1]), np.array([0, 3])], shares) == 1.0


def test_passes_draw_afresh_and_reproducibly(source: SlideSource) -> None:
    plan = _plan(source, passes=2)
    table = _read(source, plan)
    assert table.equals(_read(source, plan))
    drawn = []
    for turn in (0, 1):
        rows = table.filter(pa.array(table["pass_number"].to_numpy() == turn))
        pairs = set(zip(rows["slide"].to_pylist(), rows["tile"].to_pylist(), strict=True))
        assert len(pairs) == len(rows) == N_SLIDES * PER_SLIDE
        assert np.bincount(rows["slide"].to_numpy()).tolist() == [PER_SLIDE] * N_SLIDES
        drawn.append(pairs)
    chance = PER_SLIDE / 256
    assert len(drawn[0] & drawn[1]) == pytest.approx(chance * N_SLIDES * PER_SLIDE, rel=0.15)


def test_how_tasks_are_cut_changes_nothing(source: SlideSource) -> None:
    many, few = _plan(source, passes=3), _plan(source, passes=3, max_tasks=1)
    assert (few.n_tasks, many.n_tasks) == (1, 3)
    assert _read(source, many).equals(_read(source, few))


def test_crops_are_the_slides_pixels_turned(source: SlideSource) -> None:
    table = _read(source, _plan(source, passes=1)).slice(0, 40)
    for row, crop in zip(table.to_pylist(), crop_pixels(table, 32), strict=True):
        slide = source.rows[row["slide"]]
        x, y = source.corners(row["slide"])[0][row["tile"]].tolist()
        with open_slide(slide.uri, slide_id=slide.slide_id) as opened:
            tile = read_tile(opened, x_level0_px=x, y_level0_px=y, mpp=1.0, tile_px=32)
        turned = [np.rot90(t, k) for t in (tile, tile[:, ::-1]) for k in range(4)]
        assert sum(np.array_equal(crop, t) for t in turned) == 1


def test_stain_augmentation_changes_colours_alone(source: SlideSource) -> None:
    plan = _plan(source, passes=1)
    plain, stained = _read(source, plan), _read(source, plan, stain_augment=0.2)
    assert stained.drop(["pixels"]).equals(plain.drop(["pixels"]))
    before, after = crop_pixels(plain, 32).astype(int), crop_pixels(stained, 32).astype(int)
    shift = (after - before).mean((1, 2))
    assert shift.std(0).min() > 2, "each crop by its own draw"
    assert stained.equals(_read(source, plan, stain_augment=0.2))


def test_tiles_out_of_focus_are_not_trained_on(manifest: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = np.array([210, 110, 180], np.uint8) - rng.integers(0, 80, (512, 512, 3), dtype=np.uint8)
    image[:, 256:] = cv2.resize(image[::8, 256::8], (256, 512), interpolation=cv2.INTER_CUBIC)
    write_pyramid(tmp_path / "half.tif", image, mpp=1.0, tile_px=128)
    spec = TileSpec(mpp=1.0, tile_px=32)
    found = survey_slide(SlideRow("half", str(tmp_path / "half.tif")), spec)
    half = slide_source([found], spec, per_slide=None, seed=0)
    x = half.corners(0)[0][_read(half, _plan(half, passes=1))["tile"].to_numpy(), 0]
    assert 100 < len(x) < 2 * half.n_tiles.sum()
    assert x.max() < 256


def test_random_crops_reach_every_corner() -> None:
    tile = np.arange(64, dtype=np.uint8).reshape(8, 8, 1).repeat(3, 2)
    rng = np.random.default_rng(0)
    crops = [random_crop(tile, 6, rng) for _ in range(300)]
    assert {int(crop.min()) for crop in crops} == {y * 8 + x for y in range(3) for x in range(3)}
    assert len({crop.tobytes() for crop in crops}) == 9 * 8


def test_corners_come_back_from_few_bytes() -> None:
    y, x = np.nonzero(cv2.circle(np.zeros((200, 220), np.uint8), (90, 110), 70, 1, -1))
    corners = np.rint(np.stack([x, y], axis=1) * 256.256).astype(np.int64)
    packed = pack_corners(corners)
    found, cells = unpack_corners(packed)
    assert len(corners) > 15_000
    assert len(packed) < 1500, "not 120,000"
    np.testing.assert_array_equal(found, corners)
    np.testing.assert_array_equal(cells, np.stack([x - x.min(), y - y.min()], axis=1))
    assert len(unpack_corners(pack_corners(corners[:0]))[0]) == 0


def test_a_slide_that_is_one_entry_is_read_by_and_by(tmp_path: Path) -> None:
    """All of its tiles once, in tables of bounded size that are mixed like others; 50 MB of pixels in much less."""
    row = _write_slide(tmp_path / "large.tif", 1, size_px=4096)
    spec = TileSpec(mpp=1.0, tile_px=256, quality=None)
    large = replace(slide_source([survey_slide(row, spec)], spec, per_slide=None, seed=0), whole=np.array([True]))
    tracemalloc.start()
    try:
        tables = [
            table.drop(["pixels"])
            for table in crop_blocks(large, _plan(large, passes=1, input_px=256), 0, input_px=256, stain_augment=0)
        ]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    tiles = [table["tile"].to_numpy() for table in tables]
    assert sorted(np.concatenate(tiles).tolist()) == list(range(256))
    assert max(map(len, tiles)) <= 2 * 21
    assert peak < 30e6
    x, y = large.corners(0)[0][np.concatenate(tiles[:4])].T // 256
    assert min(np.ptp(x), np.ptp(y)) > 8, "no patch of the slide"


def test_a_training_that_goes_on_begins_with_the_block_it_had_reached(source: SlideSource) -> None:
    """Where workers had stopped within a pass: what was read and what will be is each tile once, but for one block."""
    in_pass = N_SLIDES * PER_SLIDE
    whole = plan_passes(in_pass, seed=7, n_tiles=2 * in_pass, input_px=128)
    block = in_pass // whole.blocks_per_pass
    assert whole.blocks_per_pass > 5
    done = in_pass + 3 * block + 10
    rest = plan_passes(in_pass, seed=7, n_tiles=2 * in_pass - done, input_px=128, done_tiles=done)
    blocks = [[b for t in range(p.n_tasks) for b in p.blocks(t, source.entry_tiles)] for p in (whole, rest)]
    assert [(turn, number) for turn, number, _ in blocks[1]] == [(t, n) for t, n, _ in blocks[0]][-len(blocks[1]) :]
    assert blocks[1][0][:2] == (1, 3)
    read_before = [b for b in blocks[0] if b[:2] < (1, 3)]
    assert sum(int(source.entry_tiles[e].sum()) for *_, e in read_before) == pytest.approx(done, abs=block)


def test_a_slide_that_changes_or_goes_costs_its_tiles_and_is_told_once(tmp_path: Path) -> None:
    rows = [_write_slide(tmp_path / f"{name}.tif", i) for i, name in enumerate(["good", "changed", "gone"])]
    found = slide_source([survey_slide(row, SPEC) for row in rows], SPEC, per_slide=None, seed=0)
    _write_slide(tmp_path / "changed.tif", 9)
    (tmp_path / "gone.tif").unlink()
    journal = Journal()
    table = _read(found, _plan(found, passes=2), journal=journal)
    assert np.bincount(table["slide"].to_numpy()).tolist() == [2 * 256]
    told = dict(journal.take())
    assert told.keys() == {"changed", "gone"}
    assert told["changed"].startswith("changed: ")
    assert told["gone"].startswith("missing: ")
    assert journal.take() == []


@pytest.mark.s3
def test_what_is_the_systems_fault_ends_the_reading_and_is_no_slides_fault(
    s3: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = _write_slide(tmp_path / "a.tif", 1)
    row = SlideRow("a", f"s3://{s3.bucket}/system/a.tif")
    objects.write_bytes(row.uri, Path(local.uri).read_bytes())
    found = slide_source([survey_slide(row, SPEC)], SPEC, per_slide=None, seed=0)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "out-of-date")
    result = survey_slide(row, SPEC)
    assert result.is_systems
    assert (result.error or "").startswith("no_access: ")
    journal = Journal()
    with pytest.raises(UadrayError, match="SignatureDoesNotMatch"):
        _read(found, _plan(found, passes=1), journal=journal)
    assert journal.take() == []


@pytest.mark.s3
def test_a_full_cache_is_the_systems_fault_too(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slide that only OpenSlide reads needs a copy on the disk."""
    uri = f"s3://{s3.bucket}/full/one.mrxs"
    objects.write_bytes(uri, b"x" * 1000)
    objects.write_bytes(f"s3://{s3.bucket}/full/one/Data0000.dat", b"x" * 100_000)
    monkeypatch.setenv("UADRAY_CACHE_BYTES", "50000")
    survey = survey_slide(SlideRow("one", uri), SPEC)
    assert survey.is_systems
    assert (survey.error or "").startswith("disk_full: ")


def test_what_a_reader_died_over_is_read_alone_and_then_left_out() -> None:
    journal = Journal()
    journal.start(3)
    journal.begin(3, ["a", "b", "c"])
    journal.start(3)  # again: the process that read all three has died
    assert journal.groups(["a", "b", "c", "d"]) == [["a"], ["b"], ["c"], ["d"]]
    journal.begin(3, ["a"])
    journal.begin(3, ["b"])
    assert journal.groups(["a", "d"]) == [["a", "d"]], "it was read alone, and nobody died"
    journal.start(3)
    assert journal.groups(["a", "b", "c", "d"]) == [["c"], ["a", "d"]]
    assert journal.take() == [("b", "crashed: 2 processes died while they read it")]
    journal.begin(3, ["c"])
    journal.end(3)
    journal.start(4)
    assert journal.groups(["b", "c"]) == [["c"]]


def test_open_slides_are_bounded(source: SlideSource) -> None:
    opened = OpenSlides(3)
    first = None
    for i, row in enumerate(source.rows):
        opened.hold({(row.uri, source.etags[i])})
        slide = opened.get(row, source.etags[i])
        first = first or slide
        assert len(opened) <= 3
        assert opened.get(row, source.etags[i]) is slide
    opened.hold({(row.uri, etag) for row, etag in zip(source.rows[:5], source.etags, strict=False)})
    reopened = opened.get(source.rows[0], source.etags[0])
    assert reopened is not first
    assert reopened.read_region(0, 0, 0, 8, 8).shape == (8, 8, 3)


def _training_data(uri: str, **options: Any) -> TrainingData:
    defaults: dict[str, Any] = {"tiles_per_slide": PER_SLIDE, "label": "normal", "n_tiles": 2 * N_SLIDES * PER_SLIDE}
    return training_data(uri, tiles=SPEC, input_px=32, **defaults | options)


@ray.remote(num_cpus=0)
def _seen_by_a_worker(shard: Any) -> list[np.ndarray]:
    """Pass, slide and tile of every row of every batch, as a training worker gets them."""
    batches = shard.iter_batches(
        batch_size=32, batch_format="pyarrow", drop_last=False, prefetch_batches=4,
        local_shuffle_buffer_size=256, local_shuffle_seed=1,
    )  # fmt: skip
    return [np.stack([t[name].to_numpy() for name in ("pass_number", "slide", "tile")], axis=1) for t in batches]


def _by_two_workers(data: TrainingData) -> list[list[np.ndarray]]:
    shards = data.dataset.streaming_split(2, equal=False)
    return list(ray.get([_seen_by_a_worker.remote(shard) for shard in shards]))


def _all_rows(shards: list[Any]) -> list[np.ndarray]:
    return [np.concatenate(batches) for batches in ray.get([_seen_by_a_worker.remote(shard) for shard in shards])]


def _check_shared_and_mixed(data: TrainingData, *, passes: int) -> None:
    workers = _by_two_workers(data)
    rows = np.concatenate([np.concatenate(batches) for batches in workers])
    for turn in range(passes):
        tiles = rows[rows[:, 0] == turn]
        assert len(tiles) == len(np.unique(tiles, axis=0)) == data.n_tiles
    assert len(rows) == passes * data.n_tiles
    for batches in workers:
        assert len(batches) > 10
        assert mixing([batch[:, 1] for batch in batches], data.shares) > 0.9


@pytest.mark.ray
def test_two_workers_share_every_pass_and_see_all_slides(ray_cluster: None, manifest: str) -> None:
    data = _training_data(manifest)
    assert data.n_tiles == N_SLIDES * PER_SLIDE
    assert data.description["n_slides"] == N_SLIDES
    _check_shared_and_mixed(data, passes=3)


@pytest.mark.ray
def test_shards_are_shared_and_mixed_alike(ray_cluster: None, manifest: str, tmp_path: Path) -> None:
    rows = read_manifest(manifest)
    tile_set(rows, SPEC, str(tmp_path / "set"), tiles_per_slide=PER_SLIDE)
    data = _training_data(str(tmp_path / "set"))
    assert data.n_tiles == N_SLIDES * PER_SLIDE
    _check_shared_and_mixed(data, passes=3)


@pytest.mark.ray
def test_slides_that_cannot_be_used_are_left_out_and_counted(
    ray_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The bundle's description and the log name neither them nor their files."""
    good = replace(_write_slide(tmp_path / "good.tif", 1), label="Normal")
    (tmp_path / "torn.tif").write_bytes(b"no slide")
    glass = np.full((256, 256, 3), 244, np.uint8)
    write_pyramid(tmp_path / "glass.tif", glass, mpp=1.0, tile_px=128)
    rows = [SlideRow(n, str(tmp_path / f"{n}.tif")) for n in ("torn", "glass")]
    write_manifest([good, *rows], str(tmp_path / "m.csv"))
    data = _training_data(str(tmp_path / "m.csv"))
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
        _training_data(str(tmp_path / "n.csv"))


@pytest.mark.parametrize("label", ["NORMAL", "Normal"])
def test_labels_count_in_any_case(tmp_path: Path, label: str) -> None:
    assert taken_labels("set", "normal", {label, "Tumor"}) == {label}
    write_manifest([SlideRow("a", "a.tif", label=label)], str(tmp_path / "m.csv"))
    with pytest.raises(InputError, match="no slide has the label 'tumor'"):
        _training_data(str(tmp_path / "m.csv"), label="tumor")


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
    data = crop_data(deadly, tiles=SPEC, input_px=32, n_tiles=N_SLIDES * PER_SLIDE, seed=0)
    (rows,) = _all_rows([data.dataset])
    assert len(rows) == len(np.unique(rows, axis=0)) == 2 * (N_SLIDES - 1) * PER_SLIDE
    assert 3 not in rows[:, 1]
    assert ray.get(data.journal.take.remote()) == [("s3", "crashed: 2 processes died while they read it")]


@pytest.mark.ray
@pytest.mark.s3
def test_slides_that_cannot_be_reached_end_a_survey_only_if_nothing_can(
    ray_cluster: None, s3: SeaweedServer, manifest: str
) -> None:
    """The session's cluster knows no way to this server."""
    good = read_manifest(manifest)[:2]
    objects.write_bytes(f"s3://{s3.bucket}/reach/a.tif", Path(good[0].uri).read_bytes())
    locked = [SlideRow(f"locked{i}", f"s3://{s3.bucket}/reach/a.tif") for i in range(6)]
    found = survey([good[0], locked[0], good[1]], SPEC, on_cluster)
    assert [s.n_tiles for s in found] == [256, 0, 256]
    assert (found[1].error or "").startswith("unreachable: ")
    with pytest.raises(
        WorkError, match=r"^5 slides could not be reached, for no fault of theirs; slide locked.: unrea"
    ):
        survey([*good, *locked], SPEC, on_cluster)
    with pytest.raises(WorkError, match=r"^1 slide could not be reached"):
        survey(locked[:1], SPEC, on_cluster)


def test_a_manifest_without_normal_slides_is_refused(tmp_path: Path) -> None:
    write_manifest([SlideRow("a", "a.tif", label="tumor")], str(tmp_path / "m.csv"))
    with pytest.raises(InputError, match="no slide has the label 'normal'"):
        _training_data(str(tmp_path / "m.csv"))
