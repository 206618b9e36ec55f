"""The virtual pathologist: a classifier of real tiles is asked about real and about synthetic ones.

A generator is good by this measure where the classifier takes its tiles for the class that it was trained on about as
often as real held-out tiles of that class. Below is too few: tiles that are unlike real ones; above says that they are
easier to tell than real ones, which happens where a generator makes the typical tile again and again.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from uadray.classifiers.bundle import ClassifierBundle, read_classifier
from uadray.classifiers.classifier import Classifier, load_classifier
from uadray.errors import InputError
from uadray.provenance import fingerprint
from uadray.slides.manifest import has_label
from uadray.tiles.images import Pixels
from uadray.tilesets import containers
from uadray.tilesets.containers import TileRef

READ_TILES = 256
"""Real tiles that are decoded at once."""


def asked(
    classifier_uri: str, synthetic: Iterable[Pixels], *, label: str, mpp: float, data: str,
    real_tiles: int | None = None, seed: int = 0, device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """Class accuracy of a classifier on real held-out tiles and on synthetic ones, with 95 % Wilson intervals.

    Args:
        classifier_uri: its bundle.
        synthetic: batches of RGB tiles [n, h, w, 3] that a generator has drawn.
        label: of the tiles that the generator was trained on.
        mpp: size of the synthetic tiles' pixels in um.
        data: tile set of real tiles, labelled as the classes are, that the classifier was not trained on.
        real_tiles: at most so many of each class, drawn at random; None for all.
        seed: of that draw.
        device: that the classifier works on.

    Returns:
        `classifier` (its name, id, classes, input_px), `synthetic` and, by class, `real`: each with `n`, `right`,
        `accuracy`, `ci95`, the mean `probability` of the right class, and `called`, how many are taken for each class;
        `label`, and `balanced_accuracy` of the real ones.

    Raises:
        InputError: it is no classifier, knows no such class, works on other tiles, or was trained on these.
    """
    bundle = read_classifier(classifier_uri)
    _check_label(classifier_uri, bundle, label, mpp)
    refs = held_out(bundle, data, most=real_tiles, seed=seed)
    classifier = load_classifier(classifier_uri, bundle, device=device)
    on_synthetic = answers(classifier, synthetic, label=label)
    return _on_real(classifier, data, refs) | {"label": label, "synthetic": on_synthetic}


def on_real_tiles(
    classifier_uri: str, *, data: str, most: int | None = None, seed: int = 0, device: str = "cpu"
) -> dict[str, Any]:
    """Class accuracy of a classifier on real held-out tiles; arguments, figures and errors as of `asked`."""
    bundle = read_classifier(classifier_uri)
    refs = held_out(bundle, data, most=most, seed=seed)
    return _on_real(load_classifier(classifier_uri, bundle, device=device), data, refs)


def _on_real(classifier: Classifier, data: str, refs: dict[str, list[TileRef]]) -> dict[str, Any]:
    bundle = classifier.bundle
    real = {name: answers(classifier, _decoded(data, of_class), label=name) for name, of_class in refs.items()}
    return {
        "classifier": {
            "name": bundle.name, "id": bundle.id, "classes": list(classifier.classes),
            "input_px": bundle.classifier.input_px,
        },
        "real": real,
        "balanced_accuracy": float(np.mean([figures["accuracy"] for figures in real.values()])),
    }  # fmt: skip


def answers(classifier: Classifier, batches: Iterable[Pixels], *, label: str) -> dict[str, Any]:
    """How often tiles are taken for their class; figures as of `asked`.

    Args:
        classifier: that is asked.
        batches: RGB tiles [n, h, w, 3].
        label: the class of all of them.

    Raises:
        InputError: there is no tile, or the tiles are smaller than the classifier's input.
    """
    number = _number(classifier.classes, label)
    found = [_probabilities(classifier, tiles) for tiles in batches]
    if not sum(map(len, found)):
        raise InputError(f"no tile of the class {label!r} to ask the classifier about")
    table = np.concatenate(found)
    called = np.bincount(table.argmax(1), minlength=len(classifier.classes))
    return {
        **share(int(called[number]), len(table)),
        "probability": float(table[:, number].mean()),
        "called": dict(zip(classifier.classes, called.tolist(), strict=True)),
    }


def share(right: int, n: int) -> dict[str, Any]:
    """`n`, `right`, `accuracy` and its `ci95` (Wilson 1927, which holds near 0 and 1 and for few tiles as well)."""
    interval = binomtest(right, n).proportion_ci(confidence_level=0.95, method="wilson")
    return {"n": n, "right": right, "accuracy": right / n, "ci95": [float(interval.low), float(interval.high)]}


def held_out(bundle: ClassifierBundle, data: str, *, most: int | None, seed: int) -> dict[str, list[TileRef]]:
    """Real tiles of each class.

    Raises:
        InputError: `data` is no tile set, has no tile of a class, or is what the classifier was trained on.
    """
    if not containers.is_tile_set(data):
        raise InputError(f"{data} is a manifest; a classifier is asked about tiles: cut them first (uadray tile)")
    listed, refs = containers.list_tiles(data), {}
    for name in bundle.classifier.classes:
        refs[name] = [ref for ref in listed if has_label(ref.label, name)]
        if not refs[name]:
            raise InputError(f"tile set {data}: no tile is labelled {name!r}, a class of classifier {bundle.name}")
        trained = bundle.training_data.get("classes", {}).get(name, {})
        same = {"fingerprint": fingerprint(r.tile_id for r in refs[name]), "n_tiles": len(refs[name])}
        if all(trained.get(key) == value for key, value in same.items()):
            raise InputError(
                f"tile set {data}: classifier {bundle.name} was trained on its tiles of the class {name!r} (number and "
                "names are the same); give held-out ones"
            )
        if most is not None and len(refs[name]) > most:
            chosen = np.random.default_rng([seed, _number(bundle.classifier.classes, name)])
            refs[name] = [refs[name][i] for i in np.sort(chosen.permutation(len(refs[name]))[:most])]
    return refs


def _decoded(data: str, refs: list[TileRef]) -> Iterator[Pixels]:
    """Batches of tiles [n, h, w, 3] of one size; what cannot be decoded is left out."""
    for start in range(0, len(refs), READ_TILES):
        read = containers.read_tiles(data, refs[start : start + READ_TILES])
        tiles = [tile for _, tile, _ in read if tile is not None]
        for shape in sorted({tile.shape for tile in tiles}):
            yield np.stack([tile for tile in tiles if tile.shape == shape])


def _probabilities(classifier: Classifier, tiles: Pixels) -> npt.NDArray[np.float64]:
    try:
        return classifier.probabilities(tiles)
    except ValueError as error:
        bundle = classifier.bundle
        raise InputError(
            f"classifier {bundle.name} takes {bundle.classifier.input_px} px, these tiles have {tiles.shape[2]} x "
            f"{tiles.shape[1]} px; train one with a smaller classifier.input_px"
        ) from error


def _check_label(uri: str, bundle: ClassifierBundle, label: str, mpp: float) -> None:
    _number(bundle.classifier.classes, label, of=f"classifier {uri}")
    if not np.isclose(bundle.tiles.mpp, mpp, rtol=0.01):
        raise InputError(
            f"classifier {uri} was trained at {bundle.tiles.mpp:g} um/px, the generator at {mpp:g}; train one with "
            f"tiles.mpp {mpp:g}"
        )


def _number(classes: tuple[str, ...], label: str, *, of: str = "the classifier") -> int:
    """Place of a class.

    Raises:
        InputError: there is no such class.
    """
    for number, name in enumerate(classes):
        if has_label(name, label):
            return number
    raise InputError(f"{of} knows the classes {', '.join(classes)}, not {label!r}")
