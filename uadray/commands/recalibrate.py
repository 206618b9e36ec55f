"""`uadray recalibrate`: a screening's folder is decided anew, from its tile scores, by another calibration."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from uadray.commands.progress import progress
from uadray.decisions.aggregation import new_aggregation
from uadray.decisions.combined import By, CombinedCalibration, combined_calibration
from uadray.decisions.conformal import Calibration, Kind, calibration_id, check_alpha
from uadray.decisions.fdr import check_normals, check_rate
from uadray.errors import InputError
from uadray.screening import bundle_calibrations, decision_segments, kept_calibrations, recalibration, screened_normals
from uadray.screening.archive_columns import DISCOVERIES, FDR
from uadray.screening.bundles import ScreeningBundle, calibrated_bundle
from uadray.screening.combination import COMBINED, FOLDER, keep_combination
from uadray.screening.redecided import same_scores
from uadray.screening.run_record import RunRecord, read_run_record
from uadray.screening.screened_normals import Wanted
from uadray.slides.manifest import read_manifest
from uadray.storage import objects


@dataclass(frozen=True)
class Asked:
    """What is to change; None leaves it as the bundle's calibration has it.

    Attributes:
        bundle_uris: where the bundles lie by now, if not where the screening found them.
        alpha: the stated false-alarm rate.
        by: what groups of normal slides differ in, such as `site,scanner`; `none` for one group of all.
        method: how tile scores make a slide's score.
        top_fraction: see `AggregationConfig`.
        normals: folder of a screening of normal slides by the same bundles.
        slides: manifest that says which of its slides count, and who their patients are.
        fdr: false discovery rate of the list of slides that is to be written.
        combine: how the scores of several bundles are combined: `maximum` or `mean`.
    """

    bundle_uris: tuple[str, ...] = ()
    alpha: float | None = None
    by: str | None = None
    method: str | None = None
    top_fraction: float | None = None
    normals: str | None = None
    slides: str | None = None
    fdr: float | None = None
    combine: str | None = None


def run(out: str, asked: Asked) -> dict[str, Any]:
    """Decide a screening anew. Killed at any moment, the same command goes on; what stood before is kept.

    Args:
        out: the screening's folder.
        asked: what is to change.

    Returns:
        The summary of `screening.summary.write_summaries`, and `calibrations`, `redecided`, `left_out` (normal slides
        that do not count, and why).

    Raises:
        InputError: what is asked for cannot be had, in one line that says what to do; or a process screens there.
    """
    group_by = _check(asked)
    record = read_run_record(out)
    bundles = _bundles(record, asked.bundle_uris)
    decide, combined, left_out = _new(bundles, asked, group_by)
    if asked.fdr is not None:
        _check_list(out, decide, asked.fdr)
    before = _before(out, record, bundles)
    for each in before.values():
        kept_calibrations.keep(out, each)
    combination = None
    if len(bundles) > 1:
        combination = {"by": asked.combine or "maximum", "id": combined and combined.id}
    if combined is not None:
        keep_combination(out, combined)
    with progress("recalibrate") as tick, recalibration.alone_in(out) as process:
        summary = recalibration.redecide(
            out, decide, process=process, same_scores=same_scores(decide, before),
            more={FDR: asked.fdr, COMBINED: combination}, own={each.bundle.id: each.calibration.id for each in bundles},
            tick=lambda done, total: tick(done, total, "slides"),
        )  # fmt: skip
    if asked.fdr is None:
        folders = [*(each.folder for each in decide), *([FOLDER] if combination else [])]
        objects.delete_all([objects.join(out, *([folder] if folder else []), DISCOVERIES) for folder in folders])
    return summary | {"calibrations": {each.name: each.calibration.id for each in decide}, "left_out": left_out}


def _check(asked: Asked) -> tuple[Kind, ...] | None:
    """What groups differ in; refuses options that do not go together."""
    if asked.fdr is not None:
        check_rate(asked.fdr)
    if asked.combine is not None and asked.combine not in get_args(By):
        raise InputError(f"--combine {asked.combine}: expected {' or '.join(get_args(By))}")
    if (asked.normals is None) != (asked.slides is None):
        raise InputError("--normals SCREENING and --slides MANIFEST go together: where slides were scored, and whose")
    if asked.normals is None and (asked.method is not None or asked.top_fraction is not None):
        raise InputError(
            "--method makes other scores, of the normal slides too: screen these with the same bundle, and name that "
            "folder (--normals) and their manifest (--slides)"
        )
    if asked.by is None:
        return None
    names = [name.strip() for name in asked.by.split(",") if name.strip()]
    if names == ["none"]:
        return ()
    kinds = {kind: kind for kind in get_args(Kind)}
    unknown = [name for name in names if name not in kinds]
    if unknown or not names:
        raise InputError(f"--by {asked.by}: expected some of {', '.join(kinds)}, or none")
    return tuple(kinds[name] for name in dict.fromkeys(names))


def _bundles(record: RunRecord, uris: Sequence[str]) -> tuple[ScreeningBundle, ...]:
    """The bundles of a screening, from where they lie now, with their own calibrations and their folders there."""
    given = {each.bundle.id: each for each in map(calibrated_bundle, uris)}
    unknown = given.keys() - {each.id for each in record.bundles}
    if unknown:
        raise InputError(f"--bundle {given[min(unknown)].uri} ({min(unknown)}) has not screened this folder")
    found = []
    for each in record.bundles:
        bundle = given.get(each.id)
        if bundle is None:
            if not each.uri:
                raise InputError(f"the record of this screening does not say where {each.name} lies: name it, --bundle")
            bundle = calibrated_bundle(each.uri)
        if bundle.bundle.id != each.id:
            raise InputError(f"{bundle.uri} is bundle {bundle.bundle.id}; {each.name} was {each.id}: name it, --bundle")
        found.append(replace(bundle, folder=each.folder))
    return tuple(found)


def _new(
    bundles: Sequence[ScreeningBundle], asked: Asked, group_by: tuple[Kind, ...] | None
) -> tuple[tuple[ScreeningBundle, ...], CombinedCalibration | None, dict[str, str]]:
    """The bundles with the calibrations that are to decide, that of all together, and normal slides that don't count.

    Without a screening of normal slides there is none of all together.
    """
    if asked.normals is None or asked.slides is None:
        return tuple(replace(each, calibration=_changed(each, asked.alpha, group_by)) for each in bundles), None, {}
    normals = screened_normals.read_normals(asked.normals, read_manifest(asked.slides), bundles)
    aggregation = None
    if asked.method is not None:
        aggregation = new_aggregation(asked.method, top_fraction=asked.top_fraction)
    wanted = Wanted(asked.alpha, group_by, aggregation)
    made = [screened_normals.calibrated(normals, each, wanted) for each in bundles]
    new = tuple(replace(each, calibration=calibration) for each, (calibration, _) in zip(bundles, made, strict=True))
    combined = None
    if len(bundles) > 1:
        scores = screened_normals.one_a_patient_by_all(normals, [scores for _, scores in made])
        by: By = "mean" if asked.combine == "mean" else "maximum"
        combined = combined_calibration(
            scores, bundle_ids=tuple(each.bundle.id for each in new), alpha=new[0].calibration.alpha,
            calibration_ids=tuple(each.calibration.id for each in new), by=by,
        )  # fmt: skip
    return new, combined, normals.left_out


def _changed(bundle: ScreeningBundle, alpha: float | None, group_by: tuple[Kind, ...] | None) -> Calibration:
    """The bundle's own calibration, with another alpha, or without its groups."""
    before = bundle.calibration
    update: dict[str, Any] = {}
    if alpha is not None and alpha != before.alpha:
        check_alpha(alpha, len(before.scores))
        update["alpha"] = alpha
    if group_by is not None and group_by != before.group_by:
        if group_by:
            raise InputError(
                f"{bundle.name}: its calibration does not know which of its slides are of which {', '.join(group_by)}; "
                "calibrate it by these (`uadray calibrate --by`), or name a screening of normal slides (--normals)"
            )
        update |= {"group_by": (), "groups": ()}
    if not update:
        return before
    changed = before.model_copy(update=update)
    return changed.model_copy(update={"id": calibration_id(changed)})


def _before(out: str, record: RunRecord, bundles: Sequence[ScreeningBundle]) -> Mapping[str, Calibration]:
    """Bundle id -> the calibration that decides so far, where it still is somewhere; else scores are made anew."""
    own, known = {each.bundle.id: each.calibration for each in bundles}, dict[str, Calibration]()
    for each in record.bundles:
        if own[each.id].id == each.calibration_id:
            known[each.id] = own[each.id]
            continue
        uri = next(bundle.uri for bundle in bundles if bundle.bundle.id == each.id)
        if bundle_calibrations.is_kept(uri, each.calibration_id):
            known[each.id] = bundle_calibrations.kept_calibration(uri, each.calibration_id)
        elif kept_calibrations.is_kept(out, each.calibration_id):
            known[each.id] = kept_calibrations.read_kept(out, each.calibration_id)
    return known


def _check_list(out: str, bundles: Sequence[ScreeningBundle], rate: float) -> None:
    """Refuse a false discovery rate at which no list can be made of the slides that are there."""
    table = decision_segments.read_decisions(out, leave_out=("evidence",)).table
    rows = table.select(["bundle", "state", "note"]).to_pylist()
    news = Counter(row["bundle"] or "" for row in rows if row["state"] == "scored" and row["note"] is None)
    for each in bundles:
        sizes = [len(each.calibration.scores), *(len(group.scores) for group in each.calibration.groups)]
        check_normals(news[each.folder], max(sizes), rate)
