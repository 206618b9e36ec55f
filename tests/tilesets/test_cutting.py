"""`uadray tile`: whose bytes are kept, what is resumed, what fails by name, and what a dry run says beforehand."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg
from seaweed import SeaweedServer

from uadray.errors import InputError, WorkError
from uadray.phantoms.pyramid import write_pyramid
from uadray.screening.estimate import estimate
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.slides.tile_reading import read_tile
from uadray.storage import objects
from uadray.tiles.chunks import read_chunks
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import StainConfig
from uadray.tiles.stain_fit import fit_stain
from uadray.tilesets import shards
from uadray.tilesets.containers import is_tile_set, kind, list_tiles, read_tiles
from uadray.tilesets.cutting import chosen_tiles, cut_slide, encoded_tiles, tile_set
from uadray.tilesets.shards import TILE_IMAGES, TILESET

pytestmark = pytest.mark.ray

OWN = TileSpec(mpp=1.0, tile_px=128, quality=None)
"""The grid of the files below."""


def _write_slide(path: Path, seed: int, *, size: tuple[int, int] = (512, 512)) -> SlideRow:
    small = np.random.default_rng(seed).integers(0, 80, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    image = np.array([210, 110, 180], np.uint8) - cv2.resize(small, size)
    write_pyramid(path, image, mpp=1.0, tile_px=128)
    return SlideRow(path.stem, str(path), label="normal")


@pytest.fixture
def rows(tmp_path: Path) -> list[SlideRow]:
    """16 whole tiles; and 12 of which 8 are whole, for 384 x 448 px."""
    return [_write_slide(tmp_path / "a.tif", 1), _write_slide(tmp_path / "b.tif", 2, size=(384, 448))]


def _tiles(uri: str) -> dict[str, Any]:
    tables = [pq.read_table(path) for path in sorted(Path(uri).glob("part-*.parquet"))]
    assert all(table.schema.equals(TILE_IMAGES) for table in tables)
    return {row["tile_id"]: row for table in tables for row in table.to_pylist()}


def test_the_files_own_bytes_are_kept_where_they_are_the_tile(
    ray_cluster: None, rows: list[SlideRow], tmp_path: Path
) -> None:
    out = str(tmp_path / "set")
    summary = tile_set(rows, OWN, out)
    assert (summary["slides"], summary["finished"], summary["failed"], summary["unreadable"]) == (2, 2, 0, 0)
    assert (summary["tiles"], summary["kept"]) == (28, 25), "the lowest row of b reaches over the edge"
    read = {ref.tile_id: image for ref, image, _ in read_tiles(out, list_tiles(out))}
    for tile_id, row in _tiles(out).items():
        slide = next(r for r in rows if r.slide_id == row["slide_id"])
        with open_slide(slide.uri, slide_id=slide.slide_id) as opened:
            pixels = read_tile(
                opened, x_level0_px=row["x_level0_px"], y_level0_px=row["y_level0_px"], mpp=1.0, tile_px=128
            )
        if row["format"] == "jpeg":
            np.testing.assert_array_equal(read[tile_id], pixels)
        else:
            assert row["format"] == "jpeg 4:4:4 q90"
            assert row["y_level0_px"] == 384
            assert np.abs(read[tile_id].astype(int) - pixels).mean() < 3
        assert (row["label"], row["mpp"], row["width_level0_px"]) == ("normal", 1.0, 128)
        assert row["tissue_fraction"] >= 0.5


def test_resampled_tiles_are_encoded_at_the_asked_quality(
    ray_cluster: None, rows: list[SlideRow], tmp_path: Path
) -> None:
    spec = TileSpec(mpp=1.5, tile_px=64, quality=None)
    sizes = []
    for quality in (50, 95):
        summary = tile_set(rows[:1], spec, str(tmp_path / f"q{quality}"), quality=quality)
        assert summary["kept"] == 0
        assert {row["format"] for row in _tiles(summary["out"]).values()} == {f"jpeg 4:4:4 q{quality}"}
        sizes.append(summary["bytes"])
    assert sizes[1] > 1.5 * sizes[0]


def test_tiles_have_the_pixels_that_screening_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Level 1 has exactly the scale asked for, but tiles begin between its pixels, all but the first one."""
    small = np.random.default_rng(5).integers(0, 80, (126, 126, 3), dtype=np.uint8)
    image = np.array([210, 110, 180], np.uint8) - cv2.resize(small, (1001, 1001))
    level = cv2.resize(image, (498, 498), interpolation=cv2.INTER_AREA)
    monkeypatch.setattr("uadray.phantoms.pyramid._reduced", lambda *_: level)
    write_pyramid(tmp_path / "odd.tif", image, mpp=0.5, tile_px=128, downsamples=(2,))
    with open_slide(tmp_path / "odd.tif", slide_id="odd") as slide:
        assert slide.downsamples[1][0] % 1
        spec = TileSpec(mpp=0.5 * slide.downsamples[1][0], tile_px=128, quality=None)
        tiles, _ = chosen_tiles(slide, "", spec, per_slide=None, seed=0)
        encoded = {i: (data, own) for i, data, own in encoded_tiles(
            slide, tiles, spec, quality=100, normalise=None, left_out=Counter())}  # fmt: skip
        (chunk,) = read_chunks(slide, tiles, spec=spec)
    assert sum(own for _, own in encoded.values()) == 1
    assert len(encoded) == len(tiles) == 16
    for i, (data, _) in encoded.items():
        difference = simplejpeg.decode_jpeg(data).astype(int) - chunk.pixels[i]
        assert np.abs(difference).mean() < 1, f"tile {i}: no more than what JPEG of quality 100 loses"


def test_a_second_run_does_what_is_missing_and_no_more(ray_cluster: None, rows: list[SlideRow], tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    rows.append(SlideRow("c", str(tmp_path / "c.tif")))
    (tmp_path / "c.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:5000])
    first = tile_set(rows, OWN, out)
    assert (first["finished"], first["failed"]) == (2, 1)
    assert first["failures"]["c"].startswith("unreadable: ")
    before = {path.name: path.stat().st_mtime_ns for path in Path(out).glob("part-*")}
    ticks: list[tuple[int, int, int]] = []
    rows[2] = _write_slide(tmp_path / "c.tif", 3)
    second = tile_set(rows, OWN, out, progress=lambda *tick: ticks.append(tick))
    assert (second["finished"], second["failed"], second["slides_now"], second["tiles_now"]) == (3, 0, 1, 16)
    assert ticks == [(3, 3, 16)]
    after = {path.name: path.stat().st_mtime_ns for path in Path(out).glob("part-*")}
    assert {name: after[name] for name in before} == before
    assert len(after) == 3
    _write_slide(tmp_path / "a.tif", 9)  # a new version
    assert tile_set(rows, OWN, out)["slides_now"] == 1
    assert tile_set(rows, OWN, out)["slides_now"] == 0
    assert len(list_tiles(out)) == 16 + 12 + 16


def test_what_a_killed_run_leaves_is_no_tile_set_until_it_is_finished(
    ray_cluster: None, rows: list[SlideRow], tmp_path: Path
) -> None:
    out = str(tmp_path / "set")
    tile_set(rows, OWN, out)
    (tmp_path / "set" / "slides" / "b.json").unlink()  # b's shards are there, its commit is not
    found = json.loads((tmp_path / "set" / TILESET).read_text()) | {"finished": False, "slides": []}
    (tmp_path / "set" / TILESET).write_text(json.dumps(found))
    with pytest.raises(InputError, match="is not finished; run the same `uadray tile` command again"):
        list_tiles(out)
    assert tile_set(rows, OWN, out)["slides_now"] == 1
    assert len(list_tiles(out)) == 28


def test_a_folder_belongs_to_one_set_of_options(ray_cluster: None, rows: list[SlideRow], tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    tile_set(rows[:1], OWN, out, tiles_per_slide=5)
    with pytest.raises(InputError, match=r"tiles_per_slide 5 there, 6 here.*use another --out"):
        tile_set(rows[:1], OWN, out, tiles_per_slide=6)
    with pytest.raises(InputError, match=r"mpp 1\.0 there, 2.0 here"):
        tile_set(rows[:1], TileSpec(mpp=2.0, tile_px=128, quality=None), out, tiles_per_slide=5)


def test_what_is_out_of_focus_is_left_out_and_counted(ray_cluster: None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = np.array([210, 110, 180], np.uint8) - rng.integers(0, 80, (512, 512, 3), dtype=np.uint8)
    image[:, 256:] = cv2.resize(image[::8, 256::8], (256, 512), interpolation=cv2.INTER_CUBIC)
    write_pyramid(tmp_path / "half.tif", image, mpp=1.0, tile_px=128)
    rows = [SlideRow("half", str(tmp_path / "half.tif"))]
    own = tile_set(rows, TileSpec(mpp=1.0, tile_px=128), str(tmp_path / "own"))
    cut = tile_set(rows, TileSpec(mpp=1.0, tile_px=64), str(tmp_path / "cut"))
    assert (own["tiles"], own["kept"]) == (8, 8)
    assert {row["x_level0_px"] for row in _tiles(own["out"]).values()} == {0, 128}
    assert max(row["x_level0_px"] for row in _tiles(cut["out"]).values()) < 256
    assert (cut["tiles"], cut["kept"]) == (32, 0)


def test_tiles_of_normalised_slides_are_encoded_anew(ray_cluster: None, rows: list[SlideRow], tmp_path: Path) -> None:
    with open_slide(rows[0].uri, slide_id="a") as slide:
        image, _ = thumbnail(slide)
    reference = fit_stain(image, StainConfig())
    bluer = reference.model_copy(update={"maxima": tuple(2 * m for m in reference.maxima)})
    spec = OWN.model_copy(update={"stain": StainConfig(reference=bluer)})
    plain, normalised = (tile_set(rows[:1], s, str(tmp_path / n)) for n, s in (("p", OWN), ("n", spec)))
    assert (plain["kept"], normalised["kept"]) == (16, 0)
    darkness = [
        np.mean([255 - image.mean() for _, image, _ in read_tiles(s["out"], list_tiles(s["out"])) if image is not None])
        for s in (plain, normalised)
    ]
    assert darkness[1] > 1.2 * darkness[0]


def test_an_edited_mask_makes_a_new_version(ray_cluster: None, rows: list[SlideRow], tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    spec = OWN.model_copy(update={"mask_dir": str(tmp_path / "masks")})
    out = str(tmp_path / "set")
    assert tile_set(rows, spec, out)["tiles"] == 28
    ring = [[0, 0], [256, 0], [256, 256], [0, 256], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "Tissue"}},
    }
    (tmp_path / "masks" / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    again = tile_set(rows, spec, out)
    assert (again["slides_now"], again["tiles"]) == (1, 4 + 12)
    assert tile_set(rows, spec, out)["slides_now"] == 0


def test_random_tiles_follow_from_seed_and_slide(ray_cluster: None, rows: list[SlideRow], tmp_path: Path) -> None:
    found = []
    for name, seed in (("x", 0), ("y", 0), ("z", 1)):
        tile_set(rows[:1], OWN, str(tmp_path / name), tiles_per_slide=6, seed=seed)
        found.append(set(_tiles(str(tmp_path / name))))
    assert len(found[0]) == 6
    assert found[0] == found[1] != found[2]


@pytest.mark.s3
def test_from_s3_to_s3(ray_cluster: None, s3: SeaweedServer, rows: list[SlideRow], tmp_path: Path) -> None:
    base = f"s3://{s3.bucket}/tile"
    for row in rows:
        objects.write_bytes(f"{base}/{row.slide_id}.tif", Path(row.uri).read_bytes())
    there = [SlideRow(row.slide_id, f"{base}/{row.slide_id}.tif", label=row.label) for row in rows]
    options = {"tiles_per_slide": 9, "seed": 0, "quality": 90}
    for row in there:  # here, for the session's cluster was started without this server's credentials
        assert cut_slide(row, OWN, options, f"{base}/set").n_tiles == 9
    summary = tile_set(there, OWN, f"{base}/set", tiles_per_slide=9)
    assert (summary["finished"], summary["slides_now"], summary["tiles"]) == (2, 0, 18)
    assert kind(f"{base}/set") == "shards"
    assert is_tile_set(f"{base}/set")
    local = tile_set(rows, OWN, str(tmp_path / "set"), tiles_per_slide=9)
    here = {ref.tile_id: image for ref, image, _ in read_tiles(local["out"], list_tiles(local["out"]))}
    for ref, image, error in read_tiles(f"{base}/set", list_tiles(f"{base}/set")):
        assert error is None
        np.testing.assert_array_equal(image, here[ref.tile_id])


@pytest.mark.s3
def test_what_the_system_fails_at_ends_the_run_and_is_no_slides_fault(
    ray_cluster: None, s3: SeaweedServer, rows: list[SlideRow], tmp_path: Path
) -> None:
    """The session's cluster knows no way to this server. What was cut stays cut, and nothing is finished."""
    out = str(tmp_path / "set")
    objects.write_bytes(f"s3://{s3.bucket}/locked/a.tif", Path(rows[0].uri).read_bytes())
    locked = [SlideRow(f"locked{i}", f"s3://{s3.bucket}/locked/a.tif") for i in range(6)]
    with pytest.raises(WorkError, match=r"^6 faults in a row that are no slide's, the last: (unreachable|no_access)"):
        tile_set([*rows, *locked], OWN, out)
    assert not json.loads((tmp_path / "set" / TILESET).read_text())["finished"]
    summary = tile_set(rows, OWN, out)
    assert (summary["slides_now"], summary["finished"], summary["failed"]) == (0, 2, 0)


def test_row_groups_are_samples_of_a_slide(ray_cluster: None, tmp_path: Path) -> None:
    row = _write_slide(tmp_path / "a.tif", 1, size=(1024, 1024))
    out = str(tmp_path / "set")
    tile_set([row], TileSpec(mpp=1.0, tile_px=32, quality=None), out)
    found = shards.folder_runs(out, shards.read_tile_set(out))
    assert [run.stop - run.start for _, run in found] == [64] * 16
    assert [run.first_tile for _, run in found] == list(range(0, 1024, 64))
    for _, run in found:
        y = [values["y_level0_px"] for values in shards.read_run(run, ("y_level0_px",))]
        assert np.ptp(y) > 700


def test_a_dry_run_counts_what_the_job_then_does(ray_cluster: None, rows: list[SlideRow], tmp_path: Path) -> None:
    rows.append(SlideRow("gone", str(tmp_path / "gone.tif")))
    said = estimate(rows, OWN)
    done = tile_set(rows, OWN, str(tmp_path / "set"))
    assert said["tiles"] == said["tiles_low"] == said["tiles_high"] == done["tiles"] == 28
    assert said["unusable"].keys() == done["failures"].keys() == {"gone"}
    assert (said["slides"], said["sampled_slides"], said["sampled_tiles"], said["cpus"]) == (3, 3, 28, 4)
    files = sum(Path(row.uri).stat().st_size for row in rows[:2])
    assert 0.5 * files < said["bytes_read"] < files, "level 0 alone"
    assert said["bytes_written"] == pytest.approx(done["bytes"], rel=0.3)
    assert 0 < said["hours_low"] <= said["hours"] <= said["hours_high"]
    assert not said["scoring_included"]


def test_a_dry_run_samples_a_large_archive(ray_cluster: None, rows: list[SlideRow]) -> None:
    archive = [SlideRow(f"s{i}", rows[i % 2].uri) for i in range(40)]
    said = estimate(archive, OWN, job="screen", sample_slides=6, sample_tiles=5, seconds_per_tile=3.6)
    assert said["sampled_slides"] == 6
    assert said["sampled_tiles"] == 30
    assert said["tiles_low"] <= said["tiles"] <= said["tiles_high"]
    assert 40 * 12 <= said["tiles"] <= 40 * 16
    assert said["hours"] == pytest.approx(said["tiles"] * 3.6 / 3600 / 4, rel=0.2), "scoring is nearly all of it"
    assert 0 < said["bytes_written"] < said["tiles"] * 2000
