"""The job on a real cluster: several bundles at once score and decide as each of them does alone."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import ray

from uadray.bench.slides import upload_copies, write_slide, write_tiny_bundle
from uadray.cluster.workers import StreamConfig
from uadray.detectors.bundle import Bundle, load_detector
from uadray.detectors.detector import Scored
from uadray.monitoring.ledger_metrics import LedgerReader
from uadray.screening.bundles import ScreeningBundle, arranged, read_calibration
from uadray.screening.job import ScreenConfig, screen
from uadray.screening.progress_record import read_progress
from uadray.slides.manifest import SlideRow

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("default"),  # of Ray, about itself
]

CONFIG = ScreenConfig(stream=StreamConfig(score_workers=1, threads=1))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[SlideRow], list[ScreeningBundle]]:
    folder = tmp_path_factory.mktemp("job")
    rows = upload_copies(write_slide(folder / "slide.tif", repeats=6, phantom_px=512), str(folder / "slides"), 3)
    uris = [str(folder / name) for name in ("first", "second")]
    bundles = [ScreeningBundle(uri, bundle := write_tiny_bundle(uri), read_calibration(uri, bundle)) for uri in uris]
    return rows, bundles


def _tile_scores(folder: Path) -> dict[str, Any]:
    return {path.stem: pq.read_table(path) for path in (folder / "tiles").glob("*.parquet")}


def test_several_bundles_score_as_each_does_alone(
    archive: tuple[list[SlideRow], list[ScreeningBundle]], tmp_path: Path
) -> None:
    rows, bundles = archive
    summary = screen(rows, bundles=bundles, out=str(tmp_path / "both"), config=CONFIG)
    assert (summary["scored"], summary["slides_now"], summary["open"]) == (3, 3, 0)
    _check_the_end(str(tmp_path / "both"), summary)
    for each in arranged(bundles):
        alone = tmp_path / each.folder
        counts = screen(rows, bundles=[each], out=str(alone), config=CONFIG)
        assert summary["anomalous"][each.folder] == counts["anomalous"]
        assert summary["tiles_now"] == counts["tiles_now"]
        together, apart = _tile_scores(tmp_path / "both" / each.folder), _tile_scores(alone)
        assert together.keys() == apart.keys() == {row.slide_id for row in rows}
        for slide_id, table in apart.items():
            other = together[slide_id]
            assert other.drop_columns(["score"]).equals(table.drop_columns(["score"]))
            np.testing.assert_allclose(other["score"].to_numpy(), table["score"].to_numpy(), atol=1e-6)
        one, two = (pq.read_table(folder / "decisions.parquet") for folder in (alone, tmp_path / "both" / each.folder))
        own = ["fingerprint", "score", "evidence", "decided_at", "read_seconds", "score_seconds", "tile_score_median"]
        # which of two tiles with one score is shown, their order decides
        assert one.drop_columns(own).equals(two.drop_columns(own))
        for row in rows:
            sheets = [
                folder / "evidence" / f"{row.slide_id}.svg" for folder in (alone, tmp_path / "both" / each.folder)
            ]
            names = [re.findall(r'<view id="(\w+)"', sheet.read_text()) for sheet in sheets]
            assert names[0] == names[1]
            assert {"thumbnail", "heatmap", "tile_0"} <= set(names[0])
    again = screen(rows, bundles=bundles[::-1], out=str(tmp_path / "both"), config=CONFIG)
    assert (again["scored"], again["slides_now"]) == (3, 0)


def _check_the_end(out: str, summary: dict[str, Any]) -> None:
    """What those who watch are told when it has ended, with the seconds of each part of the work."""
    (end,) = read_progress(out)
    assert end.state == "ended"
    assert end.progress is not None
    assert (end.progress.why, end.progress.slides, end.progress.open) == ("done", 3, 0)
    assert (end.progress.slides_now, end.progress.tiles_now) == (3, summary["tiles_now"])
    assert end.progress.cores == 4
    assert {"plan", "read", "decode", "commit"} <= end.progress.stages.keys()
    numbers = LedgerReader(out).read()
    assert (numbers.total, numbers.backlog, numbers.decided, numbers.timed) == (3, 0, 3, 3)
    assert min(numbers.read_seconds, numbers.score_seconds, numbers.per_second) > 0
    assert all(each.calibration is not None for each in numbers.bundles)


class Picky:
    """A detector that fails where a tile is all black."""

    def __init__(self, detector: Any) -> None:
        self.detector = detector

    def __call__(self, images: npt.NDArray[np.uint8]) -> Scored:
        if (images.max((1, 2, 3)) == 0).any():
            raise ValueError("a black tile")
        scored: Scored = self.detector(images)
        return scored


def test_a_slide_at_which_one_detector_fails_is_read_once(
    archive: tuple[list[SlideRow], list[ScreeningBundle]], tmp_path: Path
) -> None:
    """The other bundle's verdict stands; the exit says that a slide failed."""
    rows, bundles = archive
    black = tmp_path / "black.tif"
    _write_black(black)
    first, second = arranged(bundles)

    def load(uri: str, bundle: Bundle, **options: Any) -> Any:
        detector = load_detector(uri, bundle, **options)
        return Picky(detector) if uri == second.uri else detector

    both = [*rows[:1], replace(rows[0], slide_id="black", uri=str(black))]
    summary = screen(both, bundles=bundles, out=str(tmp_path / "out"), config=CONFIG, load=load)
    assert (summary["scored"], summary["failed"], summary["slides_now"]) == (1, 1, 2)
    assert summary["why_failed"] == "black: scoring: the detector failed: ValueError: a black tile"
    record = json.loads((tmp_path / "out" / "decisions" / "black.json").read_text())
    assert [each["state"] for each in record["decisions"]] == ["scored", "failed"]
    assert (tmp_path / "out" / first.folder / "tiles" / "black.parquet").exists()
    assert not (tmp_path / "out" / second.folder / "tiles" / "black.parquet").exists()
    assert list((tmp_path / "out" / "leases").iterdir()) == []


def _write_black(path: Path) -> None:
    """A slide of 16 tiles, one of them black."""
    from uadray.phantoms.pyramid import write_pyramid

    image = np.full((512, 512, 3), (200, 120, 180), np.uint8)
    image[:128, :128] = 0
    write_pyramid(path, image, mpp=0.486, tile_px=128)
