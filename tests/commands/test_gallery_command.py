"""`uadray gallery` keeps normal tiles in a bundle; a screening shows the nearest of them beside its evidence."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from small_screening import painted_rows, screen_here

from uadray.bench.slides import write_tiny_bundle
from uadray.commands import gallery
from uadray.detectors.bundle import load_detector, read_bundle
from uadray.detectors.gallery import NEAREST, load_gallery
from uadray.errors import InputError
from uadray.reports.pictures import decode_jpeg, encode_png
from uadray.slides.slide import Mpp
from uadray.storage import objects


@pytest.fixture(autouse=True)
def undiverted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uadray.commands.progress.divert", lambda: None)


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    uri = str(tmp_path / "bundle")
    write_tiny_bundle(uri)
    return uri


@pytest.fixture
def tiles(tmp_path: Path, bundle: str) -> str:
    """Normal tiles and tumour, which is black."""
    side, rng = read_bundle(bundle).tiles.tile_px, np.random.default_rng(0)
    for label, low in (("normal", 120), ("tumour", 0)):
        folder = tmp_path / "tiles" / label
        folder.mkdir(parents=True)
        for i in range(20):
            tile = cv2.resize(rng.integers(low, low + 100, (6, 6, 3), dtype=np.uint8), (side, side))
            (folder / f"{i}.png").write_bytes(encode_png(tile))
    return str(tmp_path / "tiles")


def _run(bundle: str, data: str | None, **more: Any) -> dict[str, Any]:
    return gallery.run(bundle, **{"data": data, "n": 12, "split": None, "seed": 0, "is_removed": False} | more)


def test_it_holds_normal_tiles_alone_with_the_scores_of_the_detector(bundle: str, tiles: str) -> None:
    answer = _run(bundle, tiles)
    kept = load_gallery(bundle, read_bundle(bundle))
    assert kept is not None
    assert (answer["tiles"], len(kept.jpegs)) == (12, 12)
    pictures = np.stack([decode_jpeg(jpeg) for jpeg in kept.jpegs])
    assert pictures.min() > 100
    scores = load_detector(bundle)(pictures).score  # of the JPEGs, nearly
    assert np.corrcoef(scores, kept.scores)[0, 1] > 0.9
    assert _run(bundle, tiles)["tiles"] == 12  # again, in its place
    assert _run(bundle, None, is_removed=True)["gallery"] is None
    assert load_gallery(bundle, read_bundle(bundle)) is None


def test_other_weights_in_its_place_take_it_away(bundle: str, tiles: str) -> None:
    """Else a bundle that is trained anew could not be loaded."""
    _run(bundle, tiles)
    write_tiny_bundle(bundle)
    assert load_gallery(bundle, read_bundle(bundle)) is None


def test_without_tiles_nothing_is_made(bundle: str) -> None:
    with pytest.raises(InputError, match="--data"):
        _run(bundle, None)


def test_evidence_of_a_screening_has_the_nearest(bundle: str, tiles: str, tmp_path: Path) -> None:
    _run(bundle, tiles)
    kept = load_gallery(bundle, read_bundle(bundle))
    assert kept is not None
    slides, out = tmp_path / "slides", str(tmp_path / "out")
    slides.mkdir()
    row = replace(painted_rows(slides)[0], mpp=Mpp(read_bundle(bundle).tiles.mpp))
    screen_here(out, [bundle], [row])
    decision = json.loads(objects.read_bytes(objects.join(out, "decisions", "a.json")))
    assert decision["state"] == "scored", decision
    evidence = json.loads(decision["evidence"])
    assert len(evidence) >= 3
    for tile in evidence:
        assert len(tile["normals"]) == NEAREST
        assert set(tile["normals"]) <= set(kept.scores)
    sheet = objects.read_bytes(objects.join(out, "evidence", "a.svg")).decode()
    assert all(f'id="normal{k}_{i}"' in sheet for k in range(1, NEAREST + 1) for i in range(len(evidence)))
    page = objects.read_bytes(objects.join(out, "worklist.html")).decode()
    assert "Nearest normal tile" in page
