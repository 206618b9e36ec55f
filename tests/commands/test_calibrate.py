"""Who may calibrate: normal slides, unseen, each once, one a patient; and what is left of them in a bundle."""

import json
import logging
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import screening_drivers as sd
from seaweed import SeaweedServer

from uadray.cluster.workers import StreamConfig
from uadray.commands import calibrate as calibrate_command
from uadray.commands.calibrate import calibrate, check
from uadray.decisions.aggregation import AggregationConfig, new_aggregation
from uadray.decisions.conformal import Calibration, calibration_id, one_a_patient
from uadray.decisions.false_alarms import false_alarm_interval
from uadray.detectors import fanogan
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import CALIBRATION, Bundle, read_bundle, write_bundle
from uadray.errors import InputError, shown
from uadray.phantoms.pyramid import write_pyramid
from uadray.provenance import fingerprint
from uadray.screening import job
from uadray.screening.bundle_calibrations import kept_calibration
from uadray.screening.bundles import ScreeningBundle, read_calibration
from uadray.screening.slide_result import EVIDENCE, BundleScores
from uadray.slides import identity
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.tiles.cells import with_cells
from uadray.tiles.spec import TileSpec

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* is deprecated:DeprecationWarning:ray.data.context"
)  # Ray, of its own options

TILES = TileSpec(mpp=1.0, tile_px=32, quality=None)
_GROUPS = ("group_by", "groups", "smoothed")
ONE = StreamConfig(score_workers=1, threads=1)


def _slide(path: Path, seed: int) -> SlideRow:
    """Tissue everywhere, no two slides alike: 64 tiles."""
    small = np.random.default_rng(seed).integers(0, 80, (32, 32, 3), dtype=np.uint8)
    image = np.array([210, 110, 180], np.uint8) - cv2.resize(small, (256, 256))
    return SlideRow(path.stem, str(write_pyramid(path, image, mpp=1.0, tile_px=128)))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[SlideRow]:
    folder = tmp_path_factory.mktemp("slides")
    return [_slide(folder / f"secret{i}.tif", i) for i in range(7)]


def _bundle(folder: Path, training_data: dict[str, Any] | None = None) -> tuple[str, Bundle]:
    config = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=4)
    uri = str(folder / "bundle")
    networks = build_networks(config)
    return uri, write_bundle(uri, networks, name="n", detector=config, tiles=TILES, training_data=training_data or {})


def _trained_on(rows: list[SlideRow], salt: str = "5a17") -> dict[str, Any]:
    return {"salt": salt, "slides": identity.all_marks(rows, salt, etags={}, contents=identity.contents(rows))}


def test_trained_slides_are_refused_under_any_id(tmp_path: Path, rows: list[SlideRow]) -> None:
    """By id, by place, by content: a copy elsewhere with a name of its own, a link to it."""
    bundle = _bundle(tmp_path, _trained_on(rows[:2]))[1]
    copy, link = tmp_path / "copy.tif", tmp_path / "link.tif"
    shutil.copy(rows[0].uri, copy)
    link.symlink_to(rows[1].uri)
    for row in (rows[0], replace(rows[2], slide_id=rows[0].slide_id), replace(rows[0], slide_id="other"),
                SlideRow("other", str(copy)), SlideRow("other", str(link))):  # fmt: skip
        with pytest.raises(InputError, match=rf"must not have been trained on, under whatever id.*: {row.slide_id}$"):
            check([row, rows[3]], bundle, alpha=0.5)
    check([rows[2], rows[3]], bundle, alpha=0.5)


def test_bundles_without_a_salt_still_refuse_by_id(tmp_path: Path, rows: list[SlideRow]) -> None:
    bundle = _bundle(tmp_path, {"slides": [fingerprint([rows[0].slide_id])]})[1]
    with pytest.raises(InputError, match="must not have been trained on"):
        check(rows[:2], bundle, alpha=0.5)
    check(rows[1:3], bundle, alpha=0.5)


@pytest.mark.parametrize("odd", [{"salt": 7, "slides": "abc"}, {"salt": None, "slides": [["a"], None]}, {"slides": 5}])
def test_a_bundle_that_says_nonsense_says_nothing(tmp_path: Path, rows: list[SlideRow], odd: dict[str, Any]) -> None:
    check(rows[:2], _bundle(tmp_path, odd)[1], alpha=0.5)


def test_one_file_under_several_ids_is_refused(tmp_path: Path, rows: list[SlideRow]) -> None:
    """Ten ids of one file are one slide; of a file that is not there too."""
    bundle = _bundle(tmp_path)[1]
    shutil.copy(rows[0].uri, tmp_path / "copy.tif")
    copy, gone = SlideRow("copy", str(tmp_path / "copy.tif")), SlideRow("gone", str(tmp_path / "gone.tif"))
    with pytest.raises(InputError, match=r"1 of its files are there under several ids: secret0 = copy; keep one"):
        check([*rows, copy], bundle, alpha=0.2)
    with pytest.raises(InputError, match=r"s0 = s1 = s2 = s3 = s4; keep one"):
        check([replace(rows[0], slide_id=f"s{i}") for i in range(10)], bundle, alpha=0.1)
    with pytest.raises(InputError, match="gone = away; keep one"):
        check([gone, replace(gone, slide_id="away")], bundle, alpha=0.5)
    assert set(check([*rows, gone], bundle, alpha=0.2)) == {row.slide_id for row in rows}


@pytest.mark.s3
def test_content_is_the_same_in_s3(s3: SeaweedServer, rows: list[SlideRow], tmp_path: Path) -> None:
    uri = f"s3://{s3.bucket}/identity/x.svs"
    data = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
    objects.write_bytes(uri, data)
    (tmp_path / "y.tif").write_bytes(data)
    (tmp_path / "z.tif").write_bytes(data[:-1] + b"!")
    here, there, other = map(identity.content, (str(tmp_path / "y.tif"), uri, str(tmp_path / "z.tif")))
    assert here == there != other


def test_content_of_a_slide_of_many_files(tmp_path: Path, data_dir: Path) -> None:
    """Whichever file of a DICOM series is named; an empty file has one too."""
    for name in ("boxes_0.dcm", "boxes_1.dcm"):
        shutil.copy(data_dir / "wsi" / name, tmp_path / name)
    first, second = (identity.content(str(tmp_path / f"boxes_{i}.dcm")) for i in range(2))
    assert first == second
    (tmp_path / "boxes_0.dcm").unlink()
    assert identity.content(str(tmp_path / "boxes_1.dcm")) != second
    (tmp_path / "empty.tif").touch()
    assert identity.content(str(tmp_path / "empty.tif"))


def test_patients_count_and_not_slides(tmp_path: Path, rows: list[SlideRow], caplog: pytest.LogCaptureFixture) -> None:
    bundle = _bundle(tmp_path, _trained_on([replace(rows[6], patient_id="p9")]))[1]
    of_three = [replace(row, patient_id=f"p{i % 3}") for i, row in enumerate(rows[:6])]
    with pytest.raises(InputError, match=r"needs at least 4 normal slides.*there are 3, one a patient"):
        check(of_three, bundle, alpha=0.2)
    check(of_three, bundle, alpha=0.25)
    assert caplog.text == ""
    check([*of_three[:3], replace(rows[3], patient_id="p9")], bundle, alpha=0.25)
    assert "1 of 4 slides are of patients whose other slides were trained on" in caplog.text
    check(rows[:3], bundle, alpha=0.25)
    assert "3 of 3 slides have no patient_id" in caplog.text


def test_groups_that_are_too_small_are_told_before_slides_are_scored(
    tmp_path: Path, rows: list[SlideRow], caplog: pytest.LogCaptureFixture
) -> None:
    bundle = _bundle(tmp_path)[1]
    sites = ("North",) * 4 + ("South",) * 2
    of_sites = [replace(row, site=site, patient_id=row.slide_id) for row, site in zip(rows, sites, strict=False)]
    check([*of_sites, replace(rows[6], patient_id="p")], bundle, alpha=0.2, group_by=("site",))
    needed = "site=South has 2 slides, 4 are needed at alpha 0.2: 2 more; it is judged by the pool"
    assert [record.getMessage() for record in caplog.records] == [
        needed, "1 of 7 slides do not say their site: they count in the pool alone",
    ]  # fmt: skip
    with pytest.raises(InputError, match="no group has enough normal slides: site=North has 4 slides, 5 are needed"):
        check(of_sites, bundle, alpha=1 / 6, group_by=("site",))


def test_cells_of_the_slides_make_the_scale_of_heatmaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each slide some tiles, evenly spread; a detector without cells leaves the calibration as it was."""
    monkeypatch.setattr(calibrate_command, "CELL_TILES", 2)
    normals = calibrate_command._Normals()
    for first in (0, 50):
        result = sd.scored(SlideRow(f"s{first}", "/s.tif"))
        tiles = pa.concat_tables([sd.tiles(result.row, 1.0)] * 2)
        numbers = first + np.array([0, np.nan, -900, 25])[:, None, None] + np.arange(25).reshape(5, 5)
        result.scores = (BundleScores(with_cells(tiles, numbers.astype(np.float32)), EVIDENCE.empty_table()),)
        normals.add(result, AggregationConfig(min_tiles=1), TILES)
    assert [cells.shape for cells in normals.cells] == [(2, 5, 5)] * 2
    np.testing.assert_allclose(normals.cells[0][0, 0, :2], [1.5, 2.25])  # smoothed: 0 1 above 5 6
    normals.cells = [np.arange(50.0, dtype=np.float32).reshape(2, 5, 5) + first for first in (0, 50)]
    scale = calibrate_command._cell_scale(normals.cells)  # 0, 1, ..., 99
    assert scale == pytest.approx({"cell_median": 49.5, "cell_p99": 98.01, "cell_high": 49.5 + 1.5 * 48.51})
    assert calibrate_command._cell_scale([]) == calibrate_command._cell_scale([np.full((1, 2, 2), np.nan)]) == {}


@pytest.mark.ray
def test_a_calibration_from_slides_to_marks(
    ray_cluster: None, tmp_path: Path, rows: list[SlideRow], caplog: pytest.LogCaptureFixture
) -> None:
    """One score a patient; what calibrated is marked where it is screened again; nothing written names a slide."""
    uri, bundle = _bundle(tmp_path, _trained_on(rows[6:]))
    used = [replace(row, patient_id=f"patient{i % 3}", label="Normal", site="North") for i, row in enumerate(rows[:5])]
    broken = tmp_path / "secret_broken.tif"
    broken.write_bytes(b"no slide")
    everyone = [*used, SlideRow("secret_broken", str(broken), patient_id="patient3")]
    caplog.set_level(logging.INFO)
    made, left_out = calibrate(
        everyone, bundle_uri=uri, bundle=bundle, alpha=0.25, aggregation=new_aggregation(), config=ONE,
        group_by=("site",),
    )  # fmt: skip
    assert list(left_out) == ["secret_broken"]
    assert len(made.scores) == 3
    assert made.tile_ceiling is not None
    assert made.tile_ceiling > made.tile_median
    assert read_calibration(uri, bundle) == made == kept_calibration(uri, made.id)
    assert made.id == calibration_id(made)
    assert [(group.values, group.scores) for group in made.groups] == [({"site": "North"}, made.scores)]
    assert made.tile_tail is not None
    assert made.tile_tail.scores[-1] == made.tile_quantiles[-1]
    assert made.cell_scale is None
    assert len(made.tile_quantiles) == 101
    assert made.tile_quantiles[50] == made.tile_median
    assert made.tile_quantiles[99] == made.tile_p99
    assert [(each.site, each.scanner, each.stain) for each in made.normals] == [("North", None, None)] * 3
    assert all(each.tissue_share == 1.0 and each.green and each.saturation for each in made.normals)
    assert all(each.focus is None for each in made.normals), "these tiles are not judged"
    assert datetime.now(UTC) - datetime.fromisoformat(made.made) < timedelta(minutes=2)
    older = made.model_dump_json(exclude={"tile_quantiles", "made", "normals", "tile_tail", *_GROUPS})
    nothing = {"tile_quantiles": (), "made": "", "normals": (), "tile_tail": None, "group_by": (), "groups": ()}
    assert Calibration.model_validate_json(older) == made.model_copy(update=nothing)
    written = "".join((Path(uri) / name).read_text() for name in ("bundle.json", CALIBRATION)) + caplog.text
    assert not any(word in written for word in ("secret", "patient0", str(tmp_path)))
    again = [replace(used[0], slide_id="renamed"), replace(rows[6], patient_id="q"), rows[5]]
    config = job.ScreenConfig(stream=ONE)
    bundles = [ScreeningBundle(uri, bundle, made)]
    job.screen(again, bundles=bundles, out=str(tmp_path / "out"), config=config)
    table = pq.read_table(tmp_path / "out" / "decisions.parquet")
    assert table["note"].to_pylist() == ["calibration", "training", None]
    assert table["calibration_group"].to_pylist() == ["site=North", "pool", "pool"]
    assert table["calibration_group_slides"].to_pylist() == [3, 3, 3]
    assert table["message"].to_pylist() == [None, *["judged by the pool: the slide's site is not known"] * 2]
    assert table["false_alarm_high"].to_pylist() == [false_alarm_interval(0.25, 3)[1]] * 3
    assert used[0].slide_id in one_a_patient({row.slide_id: row.patient for row in used})
    assert np.isclose(made.scores, table["score"][0].as_py(), rtol=1e-6).any()
    medians = [each.tile_score_median for each in made.normals]
    assert np.isclose(medians, table["tile_score_median"][0].as_py(), rtol=1e-5).any()
    assert "2 slides were used to train or calibrate" in caplog.text
    page = (tmp_path / "out" / "worklist.html").read_text()
    assert page.count('class="note-tag">calibration<') == page.count('class="note-tag">training<') == 1


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("name", ["scores", "tile_p99"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, value: str, name: str) -> None:
    uri, bundle = _bundle(tmp_path)
    numbers = {"scores": "[1.0, 2.0]", "tile_median": "0.1", "tile_p99": "0.2", "tile_high": "0.3"}
    numbers[name] = f"[1.0, {value}]" if name == "scores" else value
    fields = [f'"{key}": {number}' for key, number in numbers.items()]
    text = json.dumps({"id": "c", "bundle_id": bundle.id, "aggregation": {}, "alpha": 0.5})
    objects.write_bytes(f"{uri}/{CALIBRATION}", (text[:-1] + ", " + ", ".join(fields) + "}").encode())
    with pytest.raises(InputError, match=rf"{name}.*finite number"):
        read_calibration(uri, read_bundle(uri))


def test_logs_have_hashes_unless_asked(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    rows = [SlideRow("secret1", "/a.tif"), SlideRow("secret2", "/a.tif"), SlideRow("secret3", "/b.tif")]
    identity.warn_of_same_files(rows)
    assert f"2 of 3 slides are files that the manifest has under several ids: {shown('secret1')}" in caplog.text
    assert "secret" not in caplog.text
    monkeypatch.setenv("UADRAY_SHOW_IDS", "1")
    identity.warn_of_same_files(rows)
    assert "secret1, secret2" in caplog.text
