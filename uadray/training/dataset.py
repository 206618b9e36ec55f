"""What a training reads, from `--data`: a manifest of slides, or a tile set. Plain Python; two hosts read it.

On Ray it becomes a Ray Dataset (`uadray.training.ray_dataset`), without Ray a stream (`uadray.training.plain`).
"""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from uadray.errors import InputError, shown, shows_ids
from uadray.provenance import fingerprint
from uadray.slides.identity import Seen, all_marks, contents, new_salt
from uadray.slides.manifest import SlideRow, has_label, read_manifest
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain_fit import median_stain
from uadray.tilesets import containers, records, shards
from uadray.training.crops import Source
from uadray.training.file_source import FileSource
from uadray.training.shard_source import ShardSource
from uadray.training.slide_source import SlideSource
from uadray.training.survey import Survey, SurveyEach, survey

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingTiles:
    """What is trained on.

    Attributes:
        source: of the tiles.
        tiles: how slides are cut and prepared, with the stain reference that was fitted, if one was asked for.
        description: fingerprint and counts, for the bundle.
    """

    source: Source
    tiles: TileSpec
    description: dict[str, Any]

    @property
    def n_tiles(self) -> int:
        """Tiles in one pass."""
        return int(self.source.entry_tiles.sum())


def training_tiles(
    uri: str, *, tiles: TileSpec, input_px: int, tiles_per_slide: int | None, label: str, seed: int,
    survey_each: SurveyEach, split: str | None = None, seen_before: Seen | None = None,
) -> TrainingTiles:  # fmt: skip
    """The tiles behind `--data`: of a slide manifest, or those of a tile set that are labelled `label`.

    Slides are surveyed first: a broken one is named and left out, before a step is made.

    Args:
        uri: of the manifest or tile set.
        tiles: how slides are cut.
        input_px: side of a crop.
        tiles_per_slide: random tiles a slide and pass; None for all.
        label: see above.
        seed: of the draws and their order.
        survey_each: surveys slides, on the cluster or here.
        split: only the slides of this split of the manifest; None takes all.
        seen_before: slides that a part of the detector, such as its generator, was trained on already.

    Raises:
        InputError: no usable slide or tile.
        WorkError: slides cannot be surveyed, for no fault of theirs.
    """
    if containers.is_tile_set(uri):
        if split is not None:
            raise InputError(f"{uri}: a tile set has no splits; cut the tiles of the split alone, or give a manifest")
        containers.check_stain(uri, tiles)
        source, description = _from_tile_set(uri, tiles=tiles, input_px=input_px, label=label, seed=seed)
    else:
        rows = normal_rows(uri, label, split)
        surveys = survey(rows, tiles, survey_each)
        left_out = _left_out(uri, surveys)
        usable = [s for s in surveys if s.n_tiles]
        tiles = with_reference(tiles, usable)
        source = slide_source(usable, tiles, per_slide=tiles_per_slide, seed=seed)
        salt = seen_before.salt if seen_before else ""
        description = _described(usable, left_out, salt or new_salt())
    description |= {"n_tiles": int(source.entry_tiles.sum())}
    return TrainingTiles(source, tiles, description if seen_before is None else _with_marks(description, seen_before))


def normal_rows(uri: str, label: str, split: str | None) -> list[SlideRow]:
    """The slides of a manifest that are trained on.

    Raises:
        InputError: there are none.
    """
    listed = read_manifest(uri, split=split)
    rows = [r for r in listed if r.label is None or has_label(r.label, label)]
    if len(rows) < len(listed):
        log.info("%d of %d slides are labelled otherwise than %r", len(listed) - len(rows), len(listed), label)
    if not rows:
        raise InputError(f"manifest {uri}: no slide has the label {label!r}; training takes normal slides alone")
    return rows


def check_labels(uri: str, labels: tuple[str, ...], split: str | None) -> None:
    """Refuse data that does not tell the classes apart.

    Raises:
        InputError: nothing has one of the labels, or slides have none.
    """
    if not containers.is_tile_set(uri):
        found = [row.label for row in read_manifest(uri, split=split)]
    elif containers.kind(uri) == "shards":
        found = [slide.label for slide in records.read_tile_set(uri).slides if slide.n_tiles]
    else:
        found = [label for label in {ref.label for ref in containers.list_tiles(uri)} if label]  # others are passed by
    for label in labels:
        if not any(has_label(name, label) for name in found):
            named = ", ".join(sorted({name for name in found if name})[:8]) or "no label at all"
            raise InputError(f"{uri}: nothing is labelled {label!r} (found: {named}); set classifier.classes")
    if without := sum(not name for name in found):
        raise InputError(
            f"{uri}: {without} of {len(found)} slides have no label, and a classifier learns from labelled ones alone; "
            "label them, or leave them out"
        )


def described_by_label(labels: tuple[str, ...], descriptions: list[dict[str, Any]]) -> dict[str, Any]:
    """What a bundle says of tiles of several labels: `classes` holds counts and fingerprint of each.

    Args:
        labels: the classes.
        descriptions: as of `TrainingTiles`, the marks of one among those of the next.
    """
    common = ("salt", "slides", "label")
    classes = {
        label: {name: value for name, value in description.items() if name not in common}
        for label, description in zip(labels, descriptions, strict=True)
    }
    marks = {name: descriptions[-1][name] for name in ("salt", "slides") if name in descriptions[-1]}
    return marks | {
        "fingerprint": fingerprint(str(each["fingerprint"]) for each in classes.values()),
        "n_tiles": sum(each["n_tiles"] for each in classes.values()),
        "classes": classes,
    }


def _left_out(uri: str, surveys: list[Survey]) -> dict[str, str]:
    """Slide id -> why it is left out; each is logged."""
    left_out = {s.row.slide_id: s.error or "no tile with enough tissue" for s in surveys if not s.n_tiles}
    for slide_id, why in left_out.items():
        log.warning("slide %s is left out of the training: %s", shown(slide_id), why if shows_ids() else _reason(why))
    if len(left_out) == len(surveys):
        raise InputError(
            f"manifest {uri}: none of {len(surveys)} slides can be used; the first: {next(iter(left_out.items()))}"
        )
    return left_out


def _described(surveys: list[Survey], left_out: dict[str, str], salt: str) -> dict[str, Any]:
    """What a bundle says of the slides it was trained on: counts and marks, no id and no path."""
    rows, etags = [s.row for s in surveys], {s.row.slide_id: s.etag for s in surveys}
    return {
        "fingerprint": fingerprint(f"{s.row.slide_id}:{s.etag}" for s in surveys),
        "n_slides": len(surveys),
        "left_out": dict(Counter(map(_reason, left_out.values()))),
        "salt": salt,
        "slides": all_marks(rows, salt, etags=etags, contents=contents(rows)),
    }


def _with_marks(description: dict[str, Any], seen: Seen) -> dict[str, Any]:
    """A description with the marks of slides that were seen before; both are made with one salt."""
    if not seen.marks:
        return description
    marks = {*description.get("slides", ()), *seen.marks}
    return description | {"salt": seen.salt, "slides": sorted(marks)}


def _reason(why: str) -> str:
    """The word before a message, which may name the slide."""
    return why.partition(":")[0]


def with_reference(spec: TileSpec, surveys: list[Survey]) -> TileSpec:
    """The spec with a stain reference: its own, or the median of the training slides."""
    if spec.stain is None or spec.stain.reference is not None:
        return spec
    reference = median_stain([s.stain for s in surveys if s.stain is not None])
    return spec.model_copy(update={"stain": spec.stain.model_copy(update={"reference": reference})})


def slide_source(surveys: list[Survey], spec: TileSpec, *, per_slide: int | None, seed: int) -> SlideSource:
    """What readers need of the slides of a survey, all with tiles."""
    return SlideSource(
        rows=[s.row for s in surveys],
        etags=[s.etag for s in surveys],
        n_tiles=np.array([s.n_tiles for s in surveys], np.int64),
        packed=np.frombuffer(b"".join(s.packed for s in surveys), np.uint8),
        offsets=np.cumsum([0, *(len(s.packed) for s in surveys)]),
        whole=np.array([s.staged for s in surveys]),
        stains=[s.stain for s in surveys],
        spec=spec,
        per_slide=per_slide,
        seed=seed,
    )


def _from_tile_set(uri: str, *, tiles: TileSpec, input_px: int, label: str, seed: int) -> tuple[Source, dict[str, Any]]:
    source: Source
    match containers.kind(uri):
        case "shards":
            source, digest = _from_shards(uri, tiles=tiles, input_px=input_px, label=label)
        case "parquet":
            source, digest = _from_parquet(uri, tiles=tiles, input_px=input_px, label=label)
        case _:
            refs = containers.list_tiles(uri)
            taken = taken_labels(uri, label, {r.label for r in refs})
            refs = [r for r in refs if r.label in taken]
            source, digest = FileSource(uri, refs, tiles, input_px, seed), fingerprint(r.tile_id for r in refs)
    return source, {"fingerprint": digest, "label": label}


def _from_shards(uri: str, *, tiles: TileSpec, input_px: int, label: str) -> tuple[Source, str]:
    tile_set = records.read_tile_set(uri)
    numbers = [n for n, s in enumerate(tile_set.slides) if (not s.label or has_label(s.label, label)) and s.n_tiles]
    if not numbers:
        raise InputError(f"tile set {uri}: no slide with tiles has the label {label!r}; set train_label")
    chosen = tile_set.model_copy(update={"slides": [tile_set.slides[n] for n in numbers]})
    runs = shards.folder_ranges(uri, chosen)
    sizes = np.array([rows.stop - rows.start for _, rows in runs], np.int64)
    slides = np.array([n for n, _ in runs], np.int64)
    return ShardSource([rows for _, rows in runs], slides, sizes, tiles, input_px, None), tile_set.fingerprint


def _from_parquet(uri: str, *, tiles: TileSpec, input_px: int, label: str) -> tuple[Source, str]:
    refs = containers.list_tiles(uri)
    taken = taken_labels(uri, label, {r.label for r in refs})
    chosen = {r.member for r in refs if r.label in taken}
    runs, sizes = [], []
    for rows in shards.file_ranges(uri):
        size = sum(f"{rows.group}:{row}:{uri}" in chosen for row in range(rows.start, rows.stop))
        if size:
            runs.append(rows)
            sizes.append(size)
    unknown = np.full(len(runs), -1, np.int64)
    source = ShardSource(runs, unknown, np.array(sizes, np.int64), tiles, input_px, tuple(taken))
    return source, fingerprint(r.tile_id for r in refs if r.label in taken)


def taken_labels(uri: str, label: str, labels: set[str | None]) -> set[str | None]:
    """Which labels of a tile set are trained on: `label`, or all where the set does not tell tiles apart.

    Raises:
        InputError: it has several others.
    """
    if named_so := {name for name in labels if has_label(name, label)}:
        return named_so
    if labels - {None, ""} and len(labels) > 1:
        named = ", ".join(sorted(map(str, labels))[:8])
        raise InputError(f"tile set {uri}: no tile is labelled {label!r} (found: {named}); set train_label")
    return labels
