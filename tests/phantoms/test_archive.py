"""Archives of phantoms: the same seed gives the same bytes, and colour alone does not find the lesions."""

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
from sklearn.metrics import roc_auc_score

from uadray.phantoms.archive import write_archive

TILE_PX = 64  # at 1 um a pixel


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small slides at 1 mpp, four with lesions, both stains on both sides."""
    return write_archive(tmp_path_factory.mktemp("archive"), n_slides=8, n_lesion=4, seed=7, size_px=1024, mpp=1.0)


def _rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tissue(image: np.ndarray) -> np.ndarray:
    """Darker than glass once nuclei and noise are blurred away, with fat cells closed: 0 or 1, [H, W] at 1 mpp."""
    mask = (cv2.GaussianBlur(image, (0, 0), 2).mean(axis=2) < 232).astype(np.uint8)
    return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((13, 13), np.uint8))


def _tile_means(image: np.ndarray) -> np.ndarray:
    tiles = (image.shape[1] // TILE_PX, image.shape[0] // TILE_PX)
    return cv2.resize(image.astype(np.float32), tiles, interpolation=cv2.INTER_AREA)


COLOUR_SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "saturation": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1],
    "red": lambda image: image[..., 0],
    "green": lambda image: image[..., 1],
    "blue": lambda image: image[..., 2],
    "grey": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY),
}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folder = write_archive(tmp_path / name, n_slides=2, n_lesion=1, seed=seed, size_px=512).parent
        digests.append({path.name: _digest(path) for path in folder.iterdir()})
    assert digests[0] == digests[1]
    assert not {d for n, d in digests[0].items() if n.endswith(".tif")} & set(digests[2].values())


def test_manifest_and_outlines_say_what_was_painted(archive: Path) -> None:
    rows = _rows(archive)
    assert list(rows[0]) == ["slide_id", "uri", "mpp", "label", "stain"]
    assert [row["label"] for row in rows] == ["normal"] * 4 + ["lesion"] * 4
    assert [row["stain"] for row in rows] == ["0", "1"] * 4
    for row in rows:
        with openslide.OpenSlide(archive.parent / row["uri"]) as slide:
            assert slide.dimensions == (1024, 1024)
            assert float(slide.properties["openslide.mpp-x"]) == float(row["mpp"]) == 1.0
        features = json.loads((archive.parent / f"{row['slide_id']}.geojson").read_text())["features"]
        assert bool(features) == (row["label"] == "lesion")
        for feature in features:
            assert feature["properties"] == {"objectType": "annotation", "classification": {"name": "Lesion"}}
            ring = feature["geometry"]["coordinates"][0]
            assert ring[0] == ring[-1]
            assert len(ring) > 8


def test_more_lesions_than_slides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_lesion"):
        write_archive(tmp_path, n_slides=1, n_lesion=2, seed=0)


def test_colour_alone_does_not_find_lesions(archive: Path) -> None:
    """Nor does contrast, which is no colour. In four archives of 16 slides colour stayed between 0.44 and 0.56."""
    scores: dict[str, list[np.ndarray]] = {name: [] for name in (*COLOUR_SCORES, "contrast")}
    truth = []
    for row in _rows(archive):
        with openslide.OpenSlide(archive.parent / row["uri"]) as slide:
            image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
        features = json.loads((archive.parent / f"{row['slide_id']}.geojson").read_text())["features"]
        rings = [np.array(feature["geometry"]["coordinates"][0], np.int32) for feature in features]
        lesion = cv2.fillPoly(np.zeros(image.shape[:2], np.uint8), rings, 1)
        share = _tile_means(lesion)
        used = (_tile_means(_tissue(image)) >= 0.5) & ((share >= 0.5) | (share == 0))
        truth.append(share[used] >= 0.5)
        for name, score in COLOUR_SCORES.items():
            scores[name].append(_tile_means(score(image))[used])
        grey = COLOUR_SCORES["grey"](image).astype(np.float32)
        scores["contrast"].append((_tile_means(grey**2) - _tile_means(grey) ** 2)[used])
    assert np.concatenate(truth).sum() >= 30
    aurocs = {name: roc_auc_score(np.concatenate(truth), np.concatenate(score)) for name, score in scores.items()}
    assert all(max(a, 1 - a) < (0.65 if name != "contrast" else 0.75) for name, a in aurocs.items()), aurocs
