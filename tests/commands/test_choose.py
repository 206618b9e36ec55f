"""`calibrate --choose`: which slides may choose, that they do not calibrate, and that they are known afterwards."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from normal_slides import normal_slide, with_lesion

from uadray.cluster.workers import StreamConfig
from uadray.commands import calibrate as command
from uadray.commands.choose import Choosers, choosers_of, chosen_from
from uadray.decisions.aggregation import new_aggregation
from uadray.decisions.verdict import used_before
from uadray.detectors import fanogan
from uadray.detectors.building import build_networks
from uadray.detectors.bundle import Bundle, read_bundle, write_bundle
from uadray.errors import InputError
from uadray.phantoms.pyramid import write_pyramid
from uadray.schemas import TILE_SCORES
from uadray.screening.bundles import read_calibration
from uadray.screening.slide_result import BundleScores, SlideResult
from uadray.slides import identity
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.tiles.spec import TileSpec

TILES = TileSpec(mpp=1.0, tile_px=32, quality=None)
SPEC = TileSpec(mpp=0.97, tile_px=96)


def _bundle(folder: Path, training_data: dict[str, Any] | None = None) -> tuple[str, Bundle]:
    config = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=4)
    uri = str(folder / "bundle")
    written = write_bundle(uri, build_networks(config), name="n", detector=config, tiles=TILES,
                           training_data=training_data or {})  # fmt: skip
    return uri, written


def _rows(folder: Path, n: int, name: str, label: str) -> list[SlideRow]:
    """Files that only have to be told apart."""
    rows = [SlideRow(f"{name}{i}", str(folder / f"{name}{i}.tif"), patient_id=f"{name}{i}", label=label)
            for i in range(n)]  # fmt: skip
    for row in rows:
        Path(row.uri).write_bytes(f"slide {row.slide_id}".encode() * 50)
    return rows


def _choosers(
    folder: Path, rows: list[SlideRow], given: list[SlideRow], bundle: Bundle, alpha: float = 0.1
) -> Choosers:
    manifest = str(folder / "choose.csv")
    write_manifest(given, manifest)
    return choosers_of(manifest, rows, bundle=bundle, alpha=alpha, contents=identity.contents(rows))


def test_half_of_the_normal_slides_choose_and_do_not_calibrate(tmp_path: Path) -> None:
    """With their other slides: a patient is on one side."""
    _, bundle = _bundle(tmp_path)
    normals = _rows(tmp_path, 24, "n", "normal")
    normals[1] = replace(normals[1], patient_id="n0")
    ill = _rows(tmp_path, 6, "a", "tumor")
    made = _choosers(tmp_path, normals, ill, bundle)
    assert len({row.patient for row in made.normals}) == 11
    assert not {row.patient for row in made.normals} & {row.patient for row in made.left}
    assert sorted(row.slide_id for row in (*made.normals, *made.left)) == sorted(row.slide_id for row in normals)
    assert [row.slide_id for row in made.anomalies] == [row.slide_id for row in ill]
    assert set(made.contents) == {row.slide_id for row in made.rows}


def test_normal_slides_of_the_manifest_choose_in_their_place(tmp_path: Path) -> None:
    _, bundle = _bundle(tmp_path)
    normals, ill = _rows(tmp_path, 9, "n", "normal"), _rows(tmp_path, 5, "a", "tumor")
    others = _rows(tmp_path, 10, "o", "Normal")
    made = _choosers(tmp_path, normals, [*ill, *others], bundle)
    assert made.left == normals
    assert [row.slide_id for row in made.normals] == [row.slide_id for row in others]


def test_who_may_not_choose(tmp_path: Path) -> None:
    normals, ill = _rows(tmp_path, 30, "n", "normal"), _rows(tmp_path, 21, "a", "tumor")
    trained = {"salt": "5a17", "slides": identity.all_marks(ill[:1], "5a17", etags={}, contents={})}
    _, bundle = _bundle(tmp_path, trained)
    others = _rows(tmp_path, 10, "o", "normal")
    copy = replace(ill[1], slide_id="copy", uri=str(tmp_path / "copy.tif"))
    Path(copy.uri).write_bytes(Path(normals[3].uri).read_bytes())
    for given, told in [
        (ill[1:5], "at least 5 anomalous slides; there are 4"),
        (ill, "20 anomalous slides at most, there are 21"),
        (ill[:6], "must not have been trained on: a0"),
        ([*ill[1:6], replace(ill[6], label=None)], "needs the label of every slide; without one: a6"),
        ([*ill[1:6], replace(normals[0], label="tumor")], "stand there once, and do not calibrate: n0"),
        ([*ill[1:6], copy], "stand there once, and do not calibrate: copy = n3"),
        ([*ill[1:7], *others[:9]], "at least 10 normal slides, one a patient; there are 9"),
        ([*ill[1:7], *others[:9], replace(others[9], patient_id="n4")], "patients who do not calibrate: o9"),
    ]:
        with pytest.raises(InputError, match=told):
            _choosers(tmp_path, normals, given, bundle)
    with pytest.raises(InputError, match=r"alpha 0.04 needs 24 others; of 30 patients there are 4 too few"):
        _choosers(tmp_path, normals, ill[1:7], bundle, alpha=0.04)


def _results(slides: Choosers) -> Iterator[SlideResult]:
    """What a detector would say: lesions of eight squares; the first slide of each kind cannot be used."""
    rng = np.random.default_rng(0)
    for kind in (slides.normals, slides.anomalies):
        for i, row in enumerate(kind):
            squares = normal_slide(150, rng)
            if kind is slides.anomalies:
                squares = with_lesion(squares, 8, rng, height=3)
            n, x, y = 150 if i else 5, 96 * squares.column, 96 * squares.row
            columns = {"tile_id": [f"{row.slide_id}/{j}" for j in range(n)], "slide_id": [row.slide_id] * n,
                       "x_level0_px": x[:n], "y_level0_px": y[:n], "width_level0_px": [96] * n,
                       "height_level0_px": [96] * n, "tissue_fraction": [1.0] * n, "band": ["tissue"] * n,
                       "score": squares.score[:n], "mean_saturation": [0.1] * n, "mean_green": [0.1] * n,
                       "flag": [None] * n, "error": [None] * n}  # fmt: skip
            tiles = pa.table({f.name: pa.array(columns[f.name], f.type) for f in TILE_SCORES}, schema=TILE_SCORES)
            yield SlideResult(row, header={"etag": f"etag {row.slide_id}"}, scores=(BundleScores(tiles),))


def test_slides_that_chose_are_known_and_named_where_they_could_not(tmp_path: Path) -> None:
    _, bundle = _bundle(tmp_path)
    normals, ill = _rows(tmp_path, 30, "n", "normal"), _rows(tmp_path, 8, "a", "tumor")
    slides = _choosers(tmp_path, normals, ill, bundle)
    chosen = chosen_from(_results(slides), slides, spec=SPEC, alpha=0.1, default=new_aggregation("quantile"))
    assert set(chosen.left_out) == {slides.normals[0].slide_id, "a0"}
    assert all("too_little_tissue" in why for why in chosen.left_out.values())
    assert (chosen.choice.n_normals, chosen.choice.n_anomalous) == (14, 7)
    assert chosen.choice.default == "quantile"
    assert chosen.aggregation.method == chosen.choice.method != "quantile"
    seen = identity.Seen("5a17", frozenset(chosen.marks("5a17")))
    nothing = identity.Seen("", frozenset())
    for row in slides.rows:
        assert used_before(replace(row, slide_id="other"), None, nothing, seen) == "calibration"
    assert used_before(slides.left[0], None, nothing, seen) is None


def test_the_default_keeps_its_share(tmp_path: Path) -> None:
    """`--method quantile --top-fraction 0.3` is what stays, not what a new calibration does with `quantile`."""
    _, bundle = _bundle(tmp_path)
    slides = _choosers(tmp_path, _rows(tmp_path, 30, "n", "normal"), _rows(tmp_path, 8, "a", "tumor"), bundle)
    default = new_aggregation("region").model_copy(update={"tail": 0.02})
    chosen = chosen_from(_results(slides), slides, spec=SPEC, alpha=0.1, default=default)
    assert chosen.choice.method == "region"
    assert chosen.aggregation == default


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning:ray.data.context")
def test_the_command(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From manifests to a calibration that says how it came to its method."""
    monkeypatch.setattr("uadray.commands.progress.divert", lambda: None)
    monkeypatch.setattr(command, "join_cluster", lambda **_: None)
    uri, bundle = _bundle(tmp_path)
    rows = []
    for i in range(18):
        small = np.random.default_rng(i).integers(0, 80, (32, 32, 3), dtype=np.uint8)
        pixels = np.array([210, 110, 180], np.uint8) - cv2.resize(small, (160, 128))
        label = "normal" if i < 13 else "tumor"
        rows.append(
            SlideRow(f"s{i}", str(write_pyramid(tmp_path / f"s{i}.tif", pixels, mpp=1.0, tile_px=128)), label=label)
        )
    write_manifest(rows[:3], str(tmp_path / "normal.csv"))
    write_manifest(rows[3:], str(tmp_path / "choose.csv"))
    summary = command.run(
        uri, slides_uri=str(tmp_path / "normal.csv"), split=None, alpha=0.25, method="grow", top_fraction=None,
        mask_dir=None, stream=StreamConfig(score_workers=1, threads=1), choose=str(tmp_path / "choose.csv"),
    )  # fmt: skip
    made = read_calibration(uri, read_bundle(uri))
    assert summary["slides"] == len(made.scores) == 3
    assert made.choice is not None
    assert summary["choice"] == made.choice.model_dump()
    assert (made.choice.n_normals, made.choice.n_anomalous, made.choice.method) == (10, 5, made.aggregation.method)
    assert all(identity.is_seen(row, made.seen) for row in rows)
    assert bundle.id == made.bundle_id
