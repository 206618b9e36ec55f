"""A dry run says beforehand what the job then does."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tile_sets import FILE_GRID, cut, two_slides
from toy_search import CountedSearch, searching

from uadray.screening import job
from uadray.screening.estimate import estimate, total
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec


@pytest.mark.usefixtures("torch_alone")
def test_a_search_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For seconds a tile: 16 of them in all, where others score twice 64."""
    search = CountedSearch(steps=2, step_s=0.1)
    monkeypatch.setattr("uadray.detectors.bundle.load_detector", lambda *_: searching(search))
    described = SimpleNamespace(tiles=TileSpec(mpp=1, tile_px=16))
    found = job._seconds_per_tile("b", described)  # type: ignore[arg-type]
    assert search.tiles == job.SEARCHED
    assert 0.2 / job.SEARCHED <= found < 1.0


@pytest.fixture
def rows(tmp_path: Path) -> list[SlideRow]:
    return two_slides(tmp_path)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_dry_run_counts_what_the_job_then_does(rows: list[SlideRow], tmp_path: Path) -> None:
    said = estimate([*rows, SlideRow("gone", str(tmp_path / "gone.tif"))], FILE_GRID)
    done = cut(rows, FILE_GRID, str(tmp_path / "set"))
    assert said["tiles"] == said["tiles_low"] == said["tiles_high"] == done.n_tiles == 28
    assert said["unusable"].keys() == {"gone"}
    assert said["unusable"]["gone"].startswith("missing: ")
    assert (said["slides"], said["sampled_slides"], said["sampled_tiles"], said["cpus"]) == (3, 3, 28, 4)
    files = sum(Path(row.uri).stat().st_size for row in rows)
    assert 0.5 * files < said["bytes_read"] < files, "level 0 alone"
    assert said["bytes_written"] == pytest.approx(sum(slide.bytes for slide in done.slides), rel=0.3)
    assert 0 < said["hours_low"] <= said["hours"] <= said["hours_high"]
    assert not said["scoring_included"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_dry_run_samples_a_large_archive(rows: list[SlideRow]) -> None:
    archive = [SlideRow(f"s{i}", rows[i % 2].uri) for i in range(40)]
    said = estimate(archive, FILE_GRID, job="screen", sample_slides=6, sample_tiles=5, seconds_per_tile=3.6)
    assert said["sampled_slides"] == 6
    assert said["sampled_tiles"] == 30
    assert said["tiles_low"] <= said["tiles"] <= said["tiles_high"]
    assert 40 * 12 <= said["tiles"] <= 40 * 16
    assert said["hours"] == pytest.approx(said["tiles"] * 3.6 / 3600 / 4, rel=0.2), "scoring is nearly all of it"
    assert 0 < said["bytes_written"] < said["tiles"] * 2000


def test_totals_by_hand() -> None:
    assert total("bytes_read", [10, 10, 10], 300, 0) == {
        "bytes_read": 3000, "bytes_read_low": 3000, "bytes_read_high": 3000,
    }  # fmt: skip
    few = total("tiles", [0, 100], 200, 0)
    assert few["tiles"] == 10_000
    assert (few["tiles_low"], few["tiles_high"]) == (0, 20_000), "another sample may have had one of them twice"
    assert total("tiles", [0, 100], 2, 0) == {"tiles": 100, "tiles_low": 100, "tiles_high": 100}
