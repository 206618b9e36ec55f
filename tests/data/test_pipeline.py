"""Training ingest: what a pass draws, how slides are mixed, and that workers share every pass without overlap."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from uadray.data.crops import OpenSlides, SlideSource, crop_blocks, crop_pixels, random_crop
from uadray.data.materialise import tile_set
from uadray.data.passes import Passes, along_curve, draw, mixing, plan_passes
from uadray.data.pipeline import TrainingData, _survey, slide_source, taken_labels, training_data
from uadray.errors import InputError, shown
from uadray.identity import Seen, content, is_seen
from uadray.manifest import SlideRow, read_manifest, write_manifest
from uadray.slides.reader import open_slide, read_tile
from uadray.slides.synthetic import write_pyramid
from uadray.tiling import TileSpec

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
    surveys = [_survey(row, SPEC) for row in read_manifest(manifest)]
    return slide_source(surveys, SPEC, per_slide=PER_SLIDE, seed=7)


def _plan(source: SlideSource, *, passes: int, max_tasks: int = 2000) -> Passes:
    n = int(source.entry_tiles.sum())
    return plan_passes(n, seed=7, n_tiles=n * (passes - 1), input_px=32, max_tasks=max_tasks)


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
    plan = plan_passes(int(tiles.sum()), seed=1, n_tiles=passes * int(tiles.sum()), input_px=input_px,
                       max_tasks=max_tasks, first=3)  # fmt: skip
    assert plan.n_tasks <= max_tasks
    assert plan.count == passes + 1
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


@given(n=st.integers(0, 50), count=st.integers(0, 60), key=st.tuples(st.integers(0, 99), st.integers(0, 99)))
def test_draws_follow_from_their_key(n: int, count: int, key: tuple[int, int]) -> None:
    found = draw(n, count, key)
    assert len(set(found.tolist())) == len(found) == min(n, count)
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(found, draw(n, count, key))


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
        rows = table.filter(pa.array(table["turn"].to_numpy() == turn))
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
        x, y = source.corners[source.offsets[row["slide"]] + row["tile"]].tolist()
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
    found = _survey(SlideRow("half", str(tmp_path / "half.tif")), spec)
    half = slide_source([found], spec, per_slide=None, seed=0)
    x = half.corners[_read(half, _plan(half, passes=1))["tile"].to_numpy(), 0]
    assert 100 < len(x) < 2 * len(half.corners)
    assert x.max() < 256


def test_random_crops_reach_every_corner() -> None:
    tile = np.arange(64, dtype=np.uint8).reshape(8, 8, 1).repeat(3, 2)
    rng = np.random.default_rng(0)
    crops = [random_crop(tile, 6, rng) for _ in range(300)]
    assert {int(crop.min()) for crop in crops} == {y * 8 + x for y in range(3) for x in range(3)}
    assert len({crop.tobytes() for crop in crops}) == 9 * 8


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
    return [np.stack([t[name].to_numpy() for name in ("turn", "slide", "tile")], axis=1) for t in batches]


def _by_two_workers(data: TrainingData) -> list[list[np.ndarray]]:
    shards = data.dataset.streaming_split(2, equal=False)
    return list(ray.get([_seen_by_a_worker.remote(shard) for shard in shards]))


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
    (tmp_path / "bad.tif").write_bytes(b"no slide")
    glass = np.full((256, 256, 3), 244, np.uint8)
    write_pyramid(tmp_path / "glass.tif", glass, mpp=1.0, tile_px=128)
    rows = [SlideRow(n, str(tmp_path / f"{n}.tif")) for n in ("bad", "glass")]
    write_manifest([good, *rows], str(tmp_path / "m.csv"))
    data = _training_data(str(tmp_path / "m.csv"))
    assert data.n_tiles == PER_SLIDE
    assert data.description["left_out"] == {"unreadable": 1, "no tile with enough tissue": 1}
    assert f"slide {shown('bad')} is left out of the training: unreadable" in caplog.text
    for text in (json.dumps(data.description), caplog.text):
        assert not any(word in text for word in ("good", "bad", "glass", "m.csv"))
    seen = Seen(data.description["salt"], frozenset(data.description["slides"]))
    assert is_seen(good, seen)
    assert is_seen(SlideRow("other", "/x.tif"), seen, content=content(good.uri))
    assert not is_seen(rows[0], seen)
    write_manifest(rows, str(tmp_path / "n.csv"))
    with pytest.raises(InputError, match=r"none of 2 slides can be used; the first: .*bad"):
        _training_data(str(tmp_path / "n.csv"))


@pytest.mark.parametrize("label", ["NORMAL", "Normal"])
def test_labels_count_in_any_case(tmp_path: Path, label: str) -> None:
    assert taken_labels("set", "normal", {label, "Tumor"}) == {label}
    write_manifest([SlideRow("a", "a.tif", label=label)], str(tmp_path / "m.csv"))
    with pytest.raises(InputError, match="no slide has the label 'tumor'"):
        _training_data(str(tmp_path / "m.csv"), label="tumor")


def test_a_manifest_without_normal_slides_is_refused(tmp_path: Path) -> None:
    write_manifest([SlideRow("a", "a.tif", label="tumor")], str(tmp_path / "m.csv"))
    with pytest.raises(InputError, match="no slide has the label 'normal'"):
        _training_data(str(tmp_path / "m.csv"))
