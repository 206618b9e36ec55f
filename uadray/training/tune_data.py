"""What `uadray tune` trains and judges on: normal tiles in folds, and a few anomalies of few kinds.

Nothing that is known as an anomaly is trained on: a tile of the data whose pixels are those of one is left out,
whatever its label says.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from uadray.errors import InputError, WorkError
from uadray.provenance import fingerprint
from uadray.slides.manifest import has_label
from uadray.tiles.spec import TileSpec
from uadray.tilesets import containers, records
from uadray.tilesets.containers import TileRef
from uadray.training.config import TrainConfig
from uadray.training.crops import Pixels
from uadray.training.dataset import taken_labels
from uadray.training.lone_tiles import enough_tissue
from uadray.training.passes import Ints
from uadray.training.tune_config import TuneConfig

log = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]

MOST_KNOWN = 20_000
"""Anomalies that are read: all of them are looked for among the normal tiles."""

UNNAMED = "anomaly"
"""The kind of anomalies without a label."""


@dataclass(frozen=True)
class Asked:
    """Which anomalies are used.

    Attributes:
        n: so many, evenly from each kind.
        kinds: so many kinds, drawn at random; None for all.
        seed: of the draws.
    """

    n: int = 20
    kinds: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class TuneData:
    """All that a search looks at.

    Attributes:
        normals: RGB [n, side, side, 3].
        fold: [n], of each.
        is_trained: [n], which have the tissue that is trained on.
        is_judged: [n], which have the tissue that is scored.
        by_slide: whether folds keep the tiles of a slide together.
        anomalies: RGB [m, side, side, 3].
        kinds: of each anomaly.
        known: anomalies that were looked for among the normal tiles.
        left_out: normal tiles that were one of them.
        unreadable: tiles that could not be read.
        fingerprint: of all of it.
    """

    normals: Pixels
    fold: Ints
    is_trained: Bools
    is_judged: Bools
    by_slide: bool
    anomalies: Pixels
    kinds: tuple[str, ...]
    known: int
    left_out: int
    unreadable: int
    fingerprint: str


def check_data(data: str, anomalies: str, config: TuneConfig) -> None:
    """Refuse what is no tile set, or has tiles of another pixel size.

    Raises:
        InputError: naming it.
    """
    for uri in (data, anomalies):
        if not containers.is_tile_set(uri):
            raise InputError(f"{uri}: tuning takes a tile set, no manifest; cut the slides with `uadray tile` first")
        containers.check(uri)
        if containers.kind(uri) == "shards":
            mpp, wanted = records.read_tile_set(uri).spec.mpp, config.train.tiles.mpp
            if abs(mpp / wanted - 1) > 1e-3:
                raise InputError(
                    f"{uri}: its tiles have {mpp:g} um/px, train.tiles.mpp is {wanted:g}; they are the same"
                )


def read_tune_data(data: str, anomalies: str, config: TuneConfig, asked: Asked) -> TuneData:
    """Decode the tiles of a search.

    Args:
        data: URI of the tile set with normal tiles.
        anomalies: URI of the tile set with anomalies; its tiles with the label of normal ones are left out. It may be
            the same.
        config: the search.
        asked: which anomalies.

    Raises:
        InputError: there are too few, or of different sizes.
        WorkError: none can be read.
    """
    train = config.train
    known_refs = _known(anomalies, train.train_label)
    known, known_refs, bad = _read(anomalies, known_refs)
    chosen = choose(known_refs, asked)
    normal_refs = _drawn(_normal(data, train.train_label), config.normals, train.seed)
    normals, normal_refs, more_bad = _read(data, normal_refs)
    if normals.shape[1:] != known.shape[1:]:
        raise InputError(f"{anomalies}: its tiles have {known.shape[1]} px a side, those of {data} {normals.shape[1]}")
    marks = {_mark(tile) for tile in known}
    keep = np.array([_mark(tile) not in marks for tile in normals])
    if left_out := int((~keep).sum()):
        log.warning("%d normal tiles are among the anomalies, and left out", left_out)
    if not keep.any():
        raise InputError(f"{data}: every normal tile is one of the anomalies in {anomalies}")
    normals, refs = normals[keep], [ref for ref, kept in zip(normal_refs, keep, strict=True) if kept]
    fold, by_slide = folds_of([ref.slide_id for ref in refs], n=config.folds, seed=train.seed)
    return TuneData(
        normals=normals, fold=fold, by_slide=by_slide,
        is_trained=_with_tissue(normals, train.trained_tiles), is_judged=_with_tissue(normals, train.tiles),
        anomalies=known[chosen], kinds=tuple(_kind(known_refs[i]) for i in chosen), known=len(known),
        left_out=left_out, unreadable=bad + more_bad,
        fingerprint=fingerprint([*map(_mark, normals), "anomalies", *map(_mark, known[chosen])]),
    )  # fmt: skip


def _known(uri: str, normal: str) -> list[TileRef]:
    """The anomalies of a set.

    Raises:
        InputError: there is none, or there are too many.
    """
    refs = [ref for ref in containers.list_tiles(uri) if not (ref.label and has_label(ref.label, normal))]
    if not refs:
        raise InputError(f"{uri}: all tiles are labelled {normal!r}; --anomalies takes tiles of another label")
    if len(refs) > MOST_KNOWN:
        raise InputError(f"{uri}: {len(refs)} anomalies; {MOST_KNOWN} at the most, and tens are enough")
    return refs


def _normal(uri: str, label: str) -> list[TileRef]:
    refs = containers.list_tiles(uri)
    taken = taken_labels(uri, label, {ref.label for ref in refs})
    return [ref for ref in refs if ref.label in taken]


def _drawn(refs: list[TileRef], n: int, seed: int) -> list[TileRef]:
    """At most `n` of them, in their order."""
    if len(refs) <= n:
        return refs
    return [refs[i] for i in sorted(np.random.default_rng([seed, 10]).choice(len(refs), n, replace=False))]


def choose(refs: Sequence[TileRef], asked: Asked) -> list[int]:
    """Numbers of the anomalies that are used: at random, as many of each kind as there can be.

    Raises:
        InputError: there are fewer, or fewer kinds.
    """
    rng = np.random.default_rng([asked.seed, 11])
    kinds = sorted({_kind(ref) for ref in refs})
    if asked.kinds is not None:
        if asked.kinds > len(kinds):
            raise InputError(f"--kinds {asked.kinds}: the anomalies are of {len(kinds)} kinds ({', '.join(kinds[:8])})")
        kinds = sorted(rng.choice(kinds, asked.kinds, replace=False).tolist())
    queues = [rng.permutation([i for i, ref in enumerate(refs) if _kind(ref) == kind]).tolist() for kind in kinds]
    if asked.n > sum(map(len, queues)):
        raise InputError(f"--n-anomalies {asked.n}: there are {sum(map(len, queues))} of {', '.join(kinds[:8])}")
    chosen: list[int] = []
    while len(chosen) < asked.n:
        chosen += [queue.pop() for queue in queues if queue]
    return sorted(chosen[: asked.n])


def _kind(ref: TileRef) -> str:
    return ref.label or UNNAMED


def _read(uri: str, refs: list[TileRef]) -> tuple[Pixels, list[TileRef], int]:
    """The tiles [n, side, side, 3] that can be read, which they are, and how many cannot.

    Raises:
        InputError: they differ in size, or are not square.
        WorkError: none can be read.
    """
    images, read, why = list[Pixels](), list[TileRef](), ""
    for ref, image, error in containers.read_tiles(uri, refs):
        if image is None:
            why = why or str(error)
            continue
        side = (images or [image])[0].shape[0]
        if image.shape != (side, side, 3):
            raise InputError(f"{uri}: {ref.tile_id} has {image.shape[1]} x {image.shape[0]} px, others {side} a side")
        images.append(image)
        read.append(ref)
    if not images:
        raise WorkError(f"{uri}: no tile can be read; the first: {why}")
    if len(read) < len(refs):
        log.warning("%d of %d tiles cannot be read, and are left out", len(refs) - len(read), len(refs))
    return np.stack(images), read, len(refs) - len(read)


def _mark(tile: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(tile).tobytes()).hexdigest()


def folds_of(slides: Sequence[str | None], *, n: int, seed: int) -> tuple[Ints, bool]:
    """The fold of each tile, and whether slides are kept together: where every tile has one, and there are enough.

    Groups come in random order, each into the fold that has the fewest tiles.

    >>> folds_of(["a", "a", "b", "b"], n=2, seed=0)[0].tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    >>> sorted(folds_of([None] * 6, n=3, seed=0)[0].tolist())
    [0, 0, 1, 1, 2, 2]
    """
    rng = np.random.default_rng([seed, 12])
    names = {slide for slide in slides if slide}
    if not all(slides) or len(names) < n:
        return rng.permutation(np.arange(len(slides)) % n), False
    numbers = np.unique(np.array(slides, str), return_inverse=True)[1]
    sizes, of_slide, filled = np.bincount(numbers), np.zeros(len(names), np.int64), np.zeros(n, np.int64)
    for slide in rng.permutation(len(names)):
        of_slide[slide] = filled.argmin()
        filled[of_slide[slide]] += sizes[slide]
    return of_slide[numbers], True


def _with_tissue(tiles: Pixels, spec: TileSpec) -> Bools:
    """[n], which have the least tissue of a spec."""
    if not spec.min_tissue:
        return np.ones(len(tiles), np.bool_)
    return np.array([enough_tissue(tile, spec) for tile in tiles], np.bool_)


def check_folds(data: TuneData, config: TrainConfig, folds: int) -> None:
    """Refuse folds with too few tiles to train or to judge.

    Raises:
        InputError: naming the fold.
    """
    for fold in range(folds):
        trained = int((data.is_trained & (data.fold != fold)).sum())
        judged = int((data.is_judged & (data.fold == fold)).sum())
        if trained < config.batch_size or judged < 2:
            raise InputError(
                f"fold {fold}: {trained} normal tiles to train on, {judged} to judge; a batch of {config.batch_size} "
                "and 2 are needed"
            )
