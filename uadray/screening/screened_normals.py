"""A screening of normal slides -> calibrations of its bundles, without reading or scoring a slide again.

Their tile scores lie there; who their patients are says a manifest. Of several bundles the same slides are taken, so
that their scores can be compared slide by slide (`decisions.combined`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from uadray import provenance
from uadray.decisions.aggregation import AggregationConfig, Scores, reference_of, score_of, scored_squares
from uadray.decisions.conformal import (
    MAX_NAME,
    Calibration,
    Kind,
    NormalSlide,
    calibration_id,
    check_alpha,
    one_a_patient,
)
from uadray.decisions.groups import check_groups, group_name, groups_of
from uadray.decisions.neighbourhoods import Squares
from uadray.decisions.slide_measures import MEASURES
from uadray.decisions.tile_reference import TileReference
from uadray.decisions.tile_tail import tile_tail_of
from uadray.decisions.verdict import judge
from uadray.errors import InputError, NotFoundError
from uadray.screening import decision_segments
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.redecided import tiles_of
from uadray.screening.run_record import read_run_record
from uadray.slides import identity
from uadray.slides.manifest import SlideRow, has_label

QUANTILES = 101
"""As in `commands.calibrate`."""


@dataclass
class Normals:
    """The slides of a screening of normals that all bundles have scored.

    Attributes:
        out: the screening's folder.
        rows: the manifest's rows of these slides.
        facts: slide id -> bundle id -> its decision there.
        folders: bundle id -> folder of its results there.
        left_out: slide id -> why it is not among them.
    """

    out: str
    rows: list[SlideRow]
    facts: dict[str, dict[str, dict[str, Any]]]
    folders: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """How a calibration is to decide.

    Attributes:
        alpha: the stated false-alarm rate; None for that of the calibration before.
        group_by: what groups of normal slides differ in; None as before.
        aggregation: how tile scores make a slide's score; None as before.
    """

    alpha: float | None = None
    group_by: tuple[Kind, ...] | None = None
    aggregation: AggregationConfig | None = None


def read_normals(out: str, rows: Sequence[SlideRow], bundles: Sequence[ScreeningBundle]) -> Normals:
    """The normal slides of a screening that all of these bundles have scored there.

    Args:
        out: its folder.
        rows: of the manifest; slides that were not screened there are left out.
        bundles: for which calibrations are to be made.

    Raises:
        InputError: other bundles screened there, slides are labelled otherwise, or were trained on.
    """
    not_normal = [row.slide_id for row in rows if row.label and not has_label(row.label, "normal")]
    if not_normal:
        raise InputError(f"calibration takes normal slides alone; labelled otherwise: {', '.join(not_normal[:5])}")
    folders = {each.id: each.folder for each in read_run_record(out).bundles}
    missing = [each.name for each in bundles if each.bundle.id not in folders]
    if missing:
        raise InputError(f"{out} was screened without {', '.join(missing)}: screen the normal slides with all bundles")
    for each in bundles:
        seen = [row.slide_id for row in rows if identity.is_seen(row, each.bundle.trained_on)]
        if seen:
            raise InputError(f"normal slides must not have been trained on ({each.name}): {', '.join(seen[:5])}")
    table = decision_segments.read_decisions(out).table
    by_folder = {folder: bundle_id for bundle_id, folder in folders.items()}
    facts: dict[str, dict[str, dict[str, Any]]] = {}
    for fact in table.drop_columns(["evidence"]).to_pylist():
        facts.setdefault(fact["slide_id"], {})[by_folder.get(fact["bundle"] or "", "")] = fact
    normals = Normals(out, [], facts, folders)
    for row in rows:
        states = [facts.get(row.slide_id, {}).get(each.bundle.id, {}) for each in bundles]
        if all(state.get("state") == "scored" for state in states):
            normals.rows.append(row)
        else:
            normals.left_out[row.slide_id] = str(states[0].get("reason") or states[0].get("state") or "not screened")
    return normals


def calibrated(normals: Normals, bundle: ScreeningBundle, wanted: Wanted) -> tuple[Calibration, dict[str, float]]:
    """A calibration of one bundle, and the score of each slide.

    Scales of heatmaps stay those of the calibration before, as pictures are not drawn again.

    Raises:
        InputError: there are too few slides for `alpha`, or all groups are too small.
    """
    before, there = bundle.calibration, replace(bundle, folder=normals.folders[bundle.bundle.id])
    alpha = before.alpha if wanted.alpha is None else wanted.alpha
    by = before.group_by if wanted.group_by is None else wanted.group_by
    aggregation = wanted.aggregation or before.aggregation
    squares, tiles = _squares(normals, there, aggregation)
    rows = [row for row in normals.rows if row.slide_id in squares]
    patients = {row.slide_id: row.patient for row in rows}
    chosen = one_a_patient(patients)
    check_alpha(alpha, len(chosen))
    reference = reference_of([squares[slide_id] for slide_id in chosen], aggregation)
    scores = {slide_id: score_of(each, aggregation, reference=reference) for slide_id, each in squares.items()}
    origins = {row.slide_id: _origin(row) for row in rows}
    groups = groups_of(scores, origins, patients, by)
    check_groups({group_name(group.values): len(group.scores) for group in groups}, by, alpha)
    salt = identity.new_salt()
    etags = {row.slide_id: normals.facts[row.slide_id][bundle.bundle.id]["etag"] for row in rows}
    calibration = before.model_copy(update={
        "aggregation": aggregation, "alpha": alpha, "scores": tuple(sorted(scores[each] for each in chosen)),
        "tile_ceiling": reference.ceiling, "group_by": by, "groups": groups, "tile_tail": tile_tail_of(tiles),
        "tile_reference": None if reference == TileReference(ceiling=reference.ceiling) else reference,
        "tile_quantiles": tuple(np.quantile(np.concatenate(tiles), np.linspace(0, 1, QUANTILES)).tolist()),
        "salt": salt, "slides": tuple(identity.all_marks(rows, salt, etags=etags, contents={})),
        "normals": _kept(normals, bundle.bundle.id, chosen, origins), "made": provenance.now_iso(),
    })  # fmt: skip
    return calibration.model_copy(update={"id": calibration_id(calibration)}), scores


def one_a_patient_by_all(normals: Normals, scores: Sequence[Mapping[str, float]]) -> Scores:
    """The scores of one slide of each patient by all bundles, [n, bundles].

    Args:
        normals: the slides.
        scores: of each bundle, slide id -> score, as `calibrated` returns them.
    """
    by_all = set.intersection(*(set(each) for each in scores))
    chosen = one_a_patient({row.slide_id: row.patient for row in normals.rows if row.slide_id in by_all})
    return np.array([[each[slide_id] for each in scores] for slide_id in chosen])


def _squares(
    normals: Normals, bundle: ScreeningBundle, aggregation: AggregationConfig
) -> tuple[dict[str, Squares], list[Scores]]:
    """What the score of each slide is made of, and the scores of its tiles; slides without one are left out."""
    squares, tiles, spec = dict[str, Squares](), list[Scores](), bundle.bundle.tiles
    for row in normals.rows:
        try:
            table = tiles_of(normals.out, bundle, row.slide_id)
        except NotFoundError as error:
            raise InputError(f"slide {row.slide_id}: its tile scores are gone from {normals.out}") from error
        verdict = judge(table, None, aggregation, spec=spec)
        if verdict["state"] != "scored":
            normals.left_out[row.slide_id] = f"{verdict['reason']}: {verdict['message']}"
            continue
        squares[row.slide_id] = scored_squares(table, aggregation, spec=spec)
        tiles.append(table["score"].drop_null().to_numpy())
    if not squares:
        raise InputError(f"{normals.out}: none of the normal slides of the manifest was scored there")
    return squares, tiles


def _origin(row: SlideRow) -> dict[str, str | None]:
    names = {"site": row.site, "scanner": row.scanner, "stain": row.stain}
    return {kind: name and name[:MAX_NAME] for kind, name in names.items()}


def _kept(
    normals: Normals, bundle_id: str, chosen: Sequence[str], origins: Mapping[str, Mapping[str, str | None]]
) -> tuple[NormalSlide, ...]:
    """What is kept of the chosen slides, sorted by what it says: the order tells nothing of who they are."""
    kept = [
        NormalSlide.model_validate(
            {**origins[slide_id], **{name: normals.facts[slide_id][bundle_id][name] for name in MEASURES}}
        )
        for slide_id in chosen
    ]
    return tuple(sorted(kept, key=lambda each: each.model_dump_json()))
