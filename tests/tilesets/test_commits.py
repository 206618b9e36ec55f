"""What is cut again when a tile set is gone on with, and what is not."""

import hashlib
import json
from pathlib import Path

import pytest
from tile_sets import FILE_GRID, cut, two_slides, write_slide

from uadray.errors import InputError
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.tiles.spec import TileSpec
from uadray.tilesets import commits
from uadray.tilesets.records import CutOptions, read_tile_set


@pytest.fixture
def rows(tmp_path: Path) -> list[SlideRow]:
    return two_slides(tmp_path)


def _committed(rows: list[SlideRow], spec: TileSpec, out: str, **options: int) -> set[str]:
    return set(commits.committed_slides(rows, spec, CutOptions(**options), out))


def test_a_commit_counts_while_the_slide_stays_as_it_is(rows: list[SlideRow], tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    assert _committed(rows, FILE_GRID, out) == set()
    cut(rows, FILE_GRID, out)
    assert _committed(rows, FILE_GRID, out) == {"a", "b"}
    write_slide(tmp_path / "a.tif", 9)  # a new version of the file
    assert _committed(rows, FILE_GRID, out) == {"b"}
    relabelled = [SlideRow(row.slide_id, row.uri, label="tumor") for row in rows]
    assert _committed(relabelled, FILE_GRID, out) == set()
    assert _committed(rows, FILE_GRID, out, seed=1) == set()
    (tmp_path / "b.tif").unlink()
    assert _committed(rows, FILE_GRID, out) == {"b"}, "the file is gone, its tiles are still good"
    (tmp_path / "set" / "slides" / "b.json").write_text('{"slide_id":')
    assert _committed(rows, FILE_GRID, out) == set()


def test_an_edited_mask_makes_a_new_version(rows: list[SlideRow], tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    spec = FILE_GRID.model_copy(update={"mask_dir": str(tmp_path / "masks")})
    out = str(tmp_path / "set")
    assert cut(rows, spec, out).n_tiles == 28
    ring = [[0, 0], [256, 0], [256, 256], [0, 256], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "Tissue"}},
    }
    (tmp_path / "masks" / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert _committed(rows, spec, out) == {"b"}
    assert cut(rows, spec, out).n_tiles == 4 + 12
    assert _committed(rows, spec, out) == {"a", "b"}


def test_a_folder_belongs_to_one_set_of_options(tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    commits.claim(out, FILE_GRID, CutOptions(tiles_per_slide=5))
    commits.claim(out, FILE_GRID, CutOptions(tiles_per_slide=5))
    with pytest.raises(InputError, match=r"tiles_per_slide 5 there, 6 here.*use another --out"):
        commits.claim(out, FILE_GRID, CutOptions(tiles_per_slide=6))
    with pytest.raises(InputError, match=r"mpp 1\.0 there, 2.0 here"):
        commits.claim(out, TileSpec(mpp=2.0, tile_px=128, quality=None), CutOptions(tiles_per_slide=5))


def test_a_set_is_open_to_readers_when_it_is_finished(rows: list[SlideRow], tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    commits.claim(out, FILE_GRID, CutOptions())
    with pytest.raises(InputError, match="is not finished; run the same `uadray tile` command again"):
        read_tile_set(out)
    finished = cut(rows, FILE_GRID, out)
    assert read_tile_set(out) == finished
    assert finished.n_tiles == 28


OLD_SPEC = (
    '{"mpp":0.5,"tile_px":256,"stride_px":null,"min_tissue":0.9,"quality":null,"stain":null}'  # `mask_dir` is left out
)
OLD_OPTIONS = '{"quality": 90, "seed": 0, "tiles_per_slide": null}'
OLD_TILESET = f"""{{
 "kind": "uadray-tileset", "version": 1, "spec": {OLD_SPEC}, "options": {OLD_OPTIONS},
 "fingerprint": "9b4e40c58bd35965", "finished": true, "group_tiles": 64, "slides": [], "failed": {{}}
}}"""


def _old_fingerprint(*parts: str) -> str:
    return hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p.encode() for p in parts)).hexdigest()[:16]


def test_a_tile_set_of_the_first_version_is_gone_on_with(tmp_path: Path) -> None:
    """Its texts and fingerprints are written here, not computed by what is tested."""
    out, slide = tmp_path / "set", tmp_path / "a.tif"
    slide.write_bytes(b"never opened")
    row = SlideRow("a", str(slide), label="normal")
    etag = objects.stat(str(slide)).etag
    commit = {
        "slide_id": "a", "fingerprint": _old_fingerprint(_old_fingerprint(OLD_SPEC, OLD_OPTIONS, "64"), etag, ""),
        "etag": etag, "label": "normal", "shards": ["part-a-e3c0edd8-0.parquet"], "rows": [56], "kept": 0,
        "unreadable": 1, "flagged": 2, "bytes": 414953,
    }  # fmt: skip
    (out / "slides").mkdir(parents=True)
    (out / "slides" / "a.json").write_text(json.dumps(commit, indent=1))
    (out / "tileset.json").write_text(OLD_TILESET)
    spec, options = TileSpec(mpp=0.5, tile_px=256, min_tissue=0.9, quality=None), CutOptions()
    spec = commits.claim(str(out), spec, options)
    assert spec.max_coarser == 0, "there was no such field"
    (slide_tiles,) = commits.committed_slides([row], spec, options, str(out)).values()
    assert slide_tiles.model_dump() == commit
