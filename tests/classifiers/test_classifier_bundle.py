"""A classifier's bundle opens as what was written; bundles of other kinds, and those that say too much, are refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from networks_watch import moved, state_of
from pydantic import ValidationError

from uadray.classifiers.bundle import load_networks_of, read_classifier, write_classifier
from uadray.classifiers.classifier import load_classifier
from uadray.classifiers.densenet import Config, networks
from uadray.detectors.bundle import read_bundle
from uadray.detectors.pixels import to_input
from uadray.errors import InputError
from uadray.generators.bundle import read_generator
from uadray.networks.bundle_description import DESCRIPTION, WEIGHTS
from uadray.tiles.spec import TileSpec

pytestmark = pytest.mark.usefixtures("torch_alone")

SMALL = Config(kind="densenet121", input_px=16, growth=2, blocks=(1, 2), stem=4)
TILES = TileSpec(mpp=0.5, tile_px=24)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write_classifier(str(tmp_path), networks(SMALL, pretrained=False), name="c", classifier=SMALL, tiles=TILES)
    return tmp_path


def _describe(folder: Path, **changes: object) -> None:
    values = json.loads((folder / DESCRIPTION).read_text()) | changes
    (folder / DESCRIPTION).write_text(json.dumps(values))


def test_round_trip(tmp_path: Path) -> None:
    made = networks(SMALL, pretrained=False)
    written = write_classifier(str(tmp_path), made, name="c", classifier=SMALL, tiles=TILES)
    assert read_classifier(str(tmp_path)) == written
    assert json.loads((tmp_path / DESCRIPTION).read_text())["kind"] == "classifier"
    assert moved(load_networks_of(str(tmp_path), written), state_of(made)) == set()
    other = written.model_copy(update={"classifier": SMALL.model_copy(update={"classes": ("a", "b")})})
    assert other.id != written.id


def test_probabilities_are_those_of_the_centre_in_any_batch(folder: Path) -> None:
    classifier = load_classifier(str(folder))
    tiles = np.random.default_rng(0).integers(0, 256, (70, 24, 24, 3), np.uint8)
    found = classifier.probabilities(tiles)
    assert found.shape == (70, 2)
    np.testing.assert_allclose(found.sum(1), 1)
    with torch.no_grad():
        logits = classifier.network(to_input(tiles[66:68], 16)).double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found[66:68], expected, atol=1e-5)
    assert classifier.probabilities(tiles[:0]).shape == (0, 2)
    with pytest.raises(ValueError, match="needs 16 px"):
        classifier.probabilities(tiles[:, :15])


def test_kinds_are_not_taken_for_one_another(folder: Path) -> None:
    with pytest.raises(InputError, match=r"is a classifier, which knows the classes .*--classifier"):
        read_bundle(str(folder))
    with pytest.raises(InputError, match="is a classifier, not a generator"):
        read_generator(str(folder))
    for kind in ("generator", "detector"):
        _describe(folder, kind=kind)
        with pytest.raises(InputError, match=f"is a {kind}, not a classifier"):
            read_classifier(str(folder))


def test_damaged_and_large_weights_are_refused(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(InputError, match="its SHA-256 differs"):
        load_classifier(str(folder))
    os.truncate(folder / WEIGHTS, 2**40)
    with pytest.raises(InputError, match="1099511627776 bytes"):
        load_classifier(str(folder))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"classes": ["normal", "Normal"]}, "name each once"),
        ({"classes": ["normal"]}, "at least 2"),
        ({"input_px": 16}, "4 blocks need 29 px"),
        ({"growth": 8, "pretrained": True}, "pretrained weights are of growth 32"),
        ({"blocks": [1, 65]}, "less than or equal to 64"),
        ({"growth": 65}, "less than or equal to 64"),
    ],
)
def test_what_cannot_be_built_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Config.model_validate({"kind": "densenet121"} | values)
