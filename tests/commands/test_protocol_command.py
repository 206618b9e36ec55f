"""`uadray evaluate BUNDLE --protocol FILE`: what it does with what others leave, and what it refuses in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import yaml

from uadray.commands import evaluate, protocol, score, screen, tile
from uadray.errors import InputError
from uadray.phantoms.archive import write_archive
from uadray.schemas import SLIDE_DECISIONS, TILE_SCORES
from uadray.slides.manifest import SlideRow, read_manifest, write_manifest
from uadray.slides.opening import open_slide
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec

FOLDER = Path(__file__).parents[2] / "configs" / "protocols"


class _Bundle:
    id = "b1"
    tiles = TileSpec(mpp=1.0, tile_px=64)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The description of a detector of 64 px tiles at 1 um/px."""
    monkeypatch.setattr(protocol, "read_bundle", lambda uri: _Bundle())
    return str(tmp_path / "bundle")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four painted slides, two of them with lesions and outlines of these."""
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder, n_slides=4, n_lesion=2, seed=1, size_px=1000, mpp=1)
    return folder


def _protocol(tmp_path: Path, **values: Any) -> str:
    file = tmp_path / "p.yaml"
    base = {"name": "p", "about": "a", "source": "b", "data": {"slides": "manifest.csv"}}
    file.write_text(yaml.safe_dump(base | values))
    return str(file)


def _scores(tiles: pa.Table) -> pa.Table:
    """Rows of `TILE_SCORES`: the further right the higher."""
    n = len(tiles)
    columns: dict[str, Any] = {name: tiles[name] for name in tiles.column_names} | {
        "score": tiles["x_level0_px"].to_numpy().astype(float), "mean_saturation": np.full(n, 0.5),
        "mean_green": np.full(n, 0.5), "flag": [None] * n, "error": [None] * n,
    }  # fmt: skip
    return pa.table({f.name: pa.array(columns[f.name], f.type) if not isinstance(columns[f.name], pa.ChunkedArray)
                     else columns[f.name].cast(f.type) for f in TILE_SCORES}, schema=TILE_SCORES)  # fmt: skip


def _planned(row: SlideRow, spec: TileSpec) -> pa.Table:
    with open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp) as slide:
        return plan_slide(slide, etag="e", spec=spec).tiles


def _screen(bundle_uris: list[str], *, slides_uri: str, out: str, **_: Any) -> dict[str, Any]:
    """In place of `uadray screen`: each tile's place is its score."""
    decisions = []
    (Path(out) / "tiles").mkdir(parents=True)
    for n, row in enumerate(read_manifest(slides_uri)):
        table = _scores(_planned(row, _Bundle.tiles))
        pq.write_table(table, Path(out) / "tiles" / f"{row.slide_id}.parquet")
        decisions.append(dict.fromkeys(SLIDE_DECISIONS.names) | {
            "slide_id": row.slide_id, "uri": row.uri, "state": "scored", "decision": "normal", "score": float(n),
            "alpha": 0.1, "fingerprint": "f", "mpp_level0": 1.0, "width_level0_px": 1000, "height_level0_px": 1000,
        })  # fmt: skip
    pq.write_table(pa.Table.from_pylist(decisions, schema=SLIDE_DECISIONS), Path(out) / "decisions.parquet")
    return {"slides": len(decisions), "failed": 0}


def test_slides_are_screened_and_evaluated(
    tmp_path: Path, archive: Path, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "run", _screen)
    monkeypatch.setattr(screen, "check_all_decided", lambda summary: None)
    file = _protocol(tmp_path, metrics=["slide_auroc", "froc", "aupro"])
    out = tmp_path / "out"
    said = protocol.run(bundle, file, out=str(out), data=str(archive))
    assert list(said) == ["protocol", "bundle", "slides", "slide_auroc", "froc", "aupro", "page"]
    assert (said["protocol"], said["bundle"], said["slides"]) == ("p", "b1", 4)
    assert said["froc"]["slides"] == 4
    assert said["froc"]["lesions"] + said["froc"]["isolated"] >= 2
    assert Path(said["page"]).exists()
    record = json.loads((out / "protocol.json").read_text())
    assert record["froc"]["score"] == said["froc"]["score"]
    assert record["evaluated_with"]["name"] == "p"
    assert {row.slide_id for row in read_manifest(str(out / "slides.csv"))} == {f"phantom_{i:03d}" for i in range(4)}


def test_tiles_are_cut_of_each_class_and_scored(
    tmp_path: Path, archive: Path, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of slides with lesions, tiles that lie in these alone, in the number that the protocol names."""
    cut: dict[str, tuple[list[SlideRow], pa.Table, TileSpec]] = {}

    def _tile(slides_uri: str, spec: TileSpec, *, out: str, tiles_per_slide: int, **_: Any) -> None:
        rows = read_manifest(slides_uri)
        cut[out] = rows, pa.concat_tables([_planned(row, spec).slice(0, tiles_per_slide) for row in rows]), spec

    def _score(bundle_uri: str, *, data: str, out: str, **_: Any) -> None:
        rows, table, _ = cut[data]
        labels = {row.slide_id: row.label for row in rows}
        column = pa.array([labels[slide] for slide in table["slide_id"].to_pylist()])
        pq.write_table(_scores(table).append_column("label", column), out)

    monkeypatch.setattr(tile, "run", _tile)
    monkeypatch.setattr(score, "run", _score)
    tiles = {
        "cut": {"mpp": 1.0, "tile_px": 64, "stride_px": 32, "min_tissue": 0.9, "quality": None},
        "normal_per_slide": 12, "anomalous_per_slide": 5, "in_lesion": 0.8,
    }  # fmt: skip
    file = _protocol(tmp_path, tiles=tiles, metrics=["auroc", "average_precision"])
    out = tmp_path / "out"
    said = protocol.run(bundle, file, out=str(out), data=str(archive))
    normal, anomalous = (cut[str(out / f"tiles_{name}")] for name in ("normal", "anomalous"))
    assert len(normal[1]) == 24
    assert len(normal[0]) == len(anomalous[0]) == 2
    assert 0 < len(anomalous[1]) <= 10
    assert 0 <= said["auroc"] <= 1
    for row in anomalous[0]:
        lesion = shapely.from_geojson((out / "masks" / f"{row.slide_id}.geojson").read_text())
        for one in anomalous[1].to_pylist():
            if one["slide_id"] == row.slide_id:
                x, y, side = one["x_level0_px"], one["y_level0_px"], one["width_level0_px"]
                assert shapely.box(x, y, x + side, y + side).intersection(lesion).area > 0.7 * side**2
    assert len(pq.read_table(out / "scores.parquet")) == len(normal[1]) + len(anomalous[1])


def test_without_normal_slides_there_are_no_tiles(tmp_path: Path, bundle: str) -> None:
    write_manifest([SlideRow("a", "a.tif", label="tumor")], str(tmp_path / "m.csv"))
    tiles = {"cut": {"mpp": 1.0, "tile_px": 64}, "normal_per_slide": 1, "anomalous_per_slide": 1}
    file = _protocol(tmp_path, tiles=tiles, metrics=["auroc"], data={"slides": "m.csv"})
    with pytest.raises(InputError, match="no slide gives normal tiles"):
        protocol.run(bundle, file, out=str(tmp_path / "out"), data=str(tmp_path))


def test_a_bucket_that_cannot_be_reached_is_one_line(
    tmp_path: Path, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is written."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"^s3://camelyon-dataset/CAMELYON16/.*: no answer from") as caught:
        protocol.run(bundle, str(FOLDER / "camelyon16_slides.yaml"), out=str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_detector_that_reads_other_tiles_is_refused() -> None:
    cut = TileSpec(mpp=0.972, tile_px=192)
    protocol.check_tiles(cut, TileSpec(mpp=0.972, tile_px=96), "b")
    for other in (TileSpec(mpp=0.972, tile_px=256), TileSpec(mpp=0.5, tile_px=96)):
        with pytest.raises(InputError, match=r"bundle b reads tiles of .* train one with tiles.mpp 0.972"):
            protocol.check_tiles(cut, other, "b")


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("detector", {"out": None}, "give --out"),
        ("detector", {"labels": "m.csv"}, "judged by a protocol, with which --labels does not go"),
        ("detector", {"options": {"draws": 2}}, "with which --draws does not go"),
        ("generator", {}, "b is a generator"),
        (None, {}, "b is none"),
    ],
)
def test_what_does_not_go_together(
    kind: str | None, options: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "_kind", lambda path: kind)
    given: dict[str, Any] = {"labels": None, "outlines": None, "data": None, "out": "o", "options": {}} | options
    with pytest.raises(InputError, match=expected):
        evaluate.run("b", **given, protocol="p.yaml")
