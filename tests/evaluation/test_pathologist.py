"""What a classifier says of real and of synthetic tiles, counted by sklearn; and what it is not asked."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_tiles import CLASSES, SIDE, tiles_of, write_labelled
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from uadray.classifiers.bundle import ClassifierBundle, write_classifier
from uadray.classifiers.classifier import load_classifier
from uadray.classifiers.densenet import Config, networks
from uadray.detectors.pixels import to_input
from uadray.errors import InputError
from uadray.evaluation.pathologist import asked, on_real_tiles, share
from uadray.tiles.spec import TileSpec
from uadray.training.dataset import described_by_label, training_tiles
from uadray.training.survey import in_threads

pytestmark = pytest.mark.usefixtures("torch_alone")

SMALL = Config(kind="densenet121", input_px=16, growth=2, blocks=(1, 1), stem=4)
TILES = TileSpec(mpp=0.5, tile_px=SIDE, min_tissue=0.0)
N = {"normal": 30, "tumor": 20}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_labelled(tmp_path_factory.mktemp("real") / "tiles", N, seed=1)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """An untrained classifier that takes every second tile for a tumour: wrong answers of both kinds are among them."""
    torch.manual_seed(3)
    made = networks(SMALL, pretrained=False)
    network = made["network"].eval()
    with torch.no_grad():
        logits = network(to_input(np.concatenate([tiles_of(label, 30, seed=5) for label in CLASSES]), 16))
        network.classifier.bias[0] -= (logits[:, 0] - logits[:, 1]).median()
    write_classifier(str(tmp_path / "c"), made, name="c", classifier=SMALL, tiles=TILES)
    return str(tmp_path / "c")


def _read(folder: str, label: str) -> np.ndarray:
    number = CLASSES.index(label)
    assert Path(folder, label).is_dir()
    return tiles_of(label, N[label], seed=1 + 10 * number)


def test_accuracies_are_those_of_sklearn(uri: str, real: str) -> None:
    classifier = load_classifier(uri)
    synthetic = tiles_of("normal", 25, seed=7)
    found = asked(uri, iter([synthetic[:20], synthetic[20:]]), label="Normal", mpp=0.5, data=real)
    tables = {label: classifier.probabilities(_read(real, label)) for label in CLASSES}
    truth = np.repeat([0, 1], [N["normal"], N["tumor"]])
    called = np.concatenate([table.argmax(1) for table in tables.values()])
    counts = confusion_matrix(truth, called, labels=[0, 1])
    assert counts.min() > 0
    for number, label in enumerate(CLASSES):
        assert list(found["real"][label]["called"].values()) == counts[number].tolist()
        assert found["real"][label]["accuracy"] == counts[number, number] / counts[number].sum()
        assert found["real"][label]["probability"] == pytest.approx(tables[label][:, number].mean())
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, called))
    answers = classifier.probabilities(synthetic)
    assert found["synthetic"]["right"] == int((answers.argmax(1) == 0).sum())
    assert found["synthetic"]["n"] == 25
    assert found["classifier"]["id"] == classifier.bundle.id


@pytest.mark.parametrize(("right", "n"), [(0, 5), (7, 10), (200, 200)])
def test_the_interval_is_wilsons(right: int, n: int) -> None:
    """Wilson 1927: the shares p with |p - right/n| = z sqrt(p (1 - p) / n), solved for p."""
    z, p = 1.959964, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert share(right, n)["ci95"] == pytest.approx(expected, abs=1e-6)


def test_only_so_many_of_each_class_are_asked_about(uri: str, real: str) -> None:
    found = on_real_tiles(uri, data=real, most=10)
    assert [figures["n"] for figures in found["real"].values()] == [10, 10]
    assert found == on_real_tiles(uri, data=real, most=10)
    whole = on_real_tiles(uri, data=real)
    assert [figures["n"] for figures in whole["real"].values()] == [30, 20]


def test_what_it_cannot_answer_is_refused(uri: str, real: str, tmp_path: Path) -> None:
    tiles = tiles_of("normal", 4, seed=0)
    for options, words in (
        ({"label": "stroma"}, "knows the classes normal, tumor, not 'stroma'"),
        ({"mpp": 1.0}, "trained at 0.5 um/px, the generator at 1"),
        ({"data": str(tmp_path / "slides.csv")}, "is a manifest"),
        ({"data": write_labelled(tmp_path / "one", {"normal": 3}, seed=0)}, "no tile is labelled 'tumor'"),
    ):
        with pytest.raises(InputError, match=words):
            asked(uri, [tiles], **{"label": "normal", "mpp": 0.5, "data": real} | options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes 16 px, these tiles have 15 x 20 px"):
        asked(uri, [tiles[:, :, :15]], label="normal", mpp=0.5, data=real)
    with pytest.raises(InputError, match="no tile of the class 'normal'"):
        asked(uri, [], label="normal", mpp=0.5, data=real)


def test_the_tiles_it_was_trained_on_are_refused(real: str, tmp_path: Path) -> None:
    """By their number and names, as the training describes them."""
    parts = [
        training_tiles(
            real, tiles=TILES, input_px=16, tiles_per_slide=None, label=label, seed=0, survey_each=in_threads
        ).description
        for label in CLASSES
    ]
    bundle: ClassifierBundle = write_classifier(
        str(tmp_path), networks(SMALL, pretrained=False), name="c", classifier=SMALL, tiles=TILES,
        training_data=described_by_label(CLASSES, parts),
    )  # fmt: skip
    assert bundle.training_data["n_tiles"] == 50
    with pytest.raises(InputError, match="was trained on its tiles of the class 'normal'"):
        on_real_tiles(str(tmp_path), data=real)
    held_out = write_labelled(tmp_path / "other", N, seed=2)
    assert on_real_tiles(str(tmp_path), data=held_out)["real"]["tumor"]["n"] == 20
