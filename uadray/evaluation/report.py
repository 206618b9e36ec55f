"""`uadray evaluate`: a scores file or a screening folder -> JSON and a page."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uadray.errors import InputError
from uadray.evaluation.aggregations import figures_of_aggregations
from uadray.evaluation.budget import budget as budget_of
from uadray.evaluation.comparison import compared
from uadray.evaluation.figures import figures_of_scores, figures_of_slides, figures_of_tiles
from uadray.evaluation.judged import is_anomalous, judged_slides, labelled_slides, left_out, scored_slides
from uadray.evaluation.localisation import figures_of_localisation
from uadray.evaluation.outlines import any_outline, outline_uris, read_outlines, sized
from uadray.evaluation.tile_detections import DetectionConfig
from uadray.evaluation.validity_report import validity_report
from uadray.reports.evaluation_page import evaluation_page
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.combination import FOLDER as COMBINED
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.storage import objects


def evaluate(
    uri: str, *, labels: str | None = None, outlines: str | None = None, against: str | None = None,
    budget: int | None = None, normals: str | None = None, detections: DetectionConfig | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate and leave JSON and a page: `evaluation.*` in a screening's folder, `<name>.*` beside a scores file.

    Args:
        uri: a scores.parquet of `uadray score`, or the output folder of `uadray screen` or of an endpoint: its main
            screening, see `screening_of`.
        labels: manifest whose `patient_id` says which slides belong together; its `label` is needed for a folder, and
            is that of tiles that have none in a scores file.
        outlines: folder of outlines; otherwise each lies beside its slide.
        against: another screening of the same slides, which this one is compared with.
        budget: slides that a reader reads a day; what is found then, see `uadray.evaluation.budget`.
        normals: manifest of screened slides that are known to be normal; whether the stated rate holds for these is
            `validity` among the figures, see `uadray.evaluation.validity_report`. With them labels may be left out.
        detections: how tiles become the detections of the FROC.

    Returns:
        The figures (see `uadray.evaluation.figures`), and where the `page` is.

    Raises:
        InputError: no labels, one class only, or nothing there.
    """
    rows = read_manifest(labels) if labels is not None else []
    if uri.endswith(".parquet"):
        if against is not None or budget is not None or normals is not None:
            raise InputError(
                f"{uri} has scores of tiles; --against, --budget and --normals are of the slides of a screening"
            )
        figures = figures_of_scores(_read_table(uri), rows)
        beside = uri.removesuffix(".parquet") + "."
    else:
        if labels is None and (normals is None or (outlines, against, budget) != (None, None, None)):
            raise InputError(f"evaluating the screening {uri} needs --labels MANIFEST with a label column")
        uri = screening_of(uri)
        _check_one_bundle(uri)
        figures = {} if normals is None else {"validity": validity_of(uri, read_manifest(normals))}
        if labels is not None:
            figures |= evaluate_screening(
                uri, rows, outlines=outlines, against=against, budget=budget, detections=detections
            )
        beside = objects.join(uri, "evaluation") + "."
    page = evaluation_page(uri, figures)
    objects.write_bytes(beside + "json", json.dumps(figures, indent=1).encode())
    objects.write_bytes(beside + "html", page.encode(), content_type="text/html; charset=utf-8")
    return figures | {"page": beside + "html"}


def validity_of(out: str, rows: Sequence[SlideRow]) -> dict[str, Any]:
    """Whether the stated rate of a screening holds, see `validity_report`.

    Args:
        out: the output folder of `uadray screen`.
        rows: the manifest of slides that are known to be normal.
    """
    decisions = _decisions(out)
    ids = _screened_ids(decisions, rows)
    return validity_report(decisions, [replace(row, slide_id=name) for row, name in zip(rows, ids, strict=True)])


def screening_of(out: str) -> str:
    """The folder of the screening that an output folder stands for.

    It is the folder itself; or, where an endpoint has screened nothing there, the only one in its `screenings/`.

    Raises:
        InputError: nothing lies there itself, and several screenings in `screenings/`.
    """
    if any(objects.exists(objects.join(out, name)) for name in ("run.json", "decisions.parquet")):
        return out
    runs = [info.uri for info in objects.list_objects(objects.join(out, "screenings"), suffixes=("run.json",))]
    names = sorted(objects.name(run.removesuffix("/run.json")) for run in runs)
    folders = [objects.join(out, "screenings", name) for name in names]
    if len(folders) > 1:
        raise InputError(f"{out} holds several screenings of an endpoint; evaluate one: {', '.join(folders)}")
    return folders[0] if folders else out


def _check_one_bundle(out: str) -> None:
    """Refuse the folder above those of several bundles: each of these is evaluated by itself."""
    run_uri = objects.join(out, "run.json")
    run = json.loads(objects.read_bytes(run_uri)) if objects.exists(run_uri) else {}
    folders = [objects.join(out, bundle["folder"]) for bundle in run.get("bundles", ())]
    if folders:
        raise InputError(f"{out} is the screening of several bundles; evaluate each: {', '.join(folders)}")


def evaluate_screening(
    out: str, rows: Sequence[SlideRow], *, outlines: str | None = None, against: str | None = None,
    budget: int | None = None, detections: DetectionConfig | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Figures of a screening by slide (against `label`) and, where there are outlines, by tile.

    Args:
        out: the output folder of `uadray screen`.
        rows: the manifest. A slide that was screened out of its folder has another id there, and is known by its URI.
        outlines: folder of outlines; otherwise each lies beside its slide.
        against: another screening of the same slides; `comparison` among the figures is with it.
        budget: slides that a reader reads a day; `budget` among the figures.
        detections: how tiles become the detections of the FROC.

    Raises:
        InputError: no slide was screened there and has a label, or all have the same.
    """
    decisions = _decisions(out)
    ids = _screened_ids(decisions, rows)
    names = {slide_id: row.slide_id for slide_id, row in zip(ids, rows, strict=True)}
    screened = [replace(row, slide_id=slide_id) for row, slide_id in zip(rows, ids, strict=True)]
    if not labelled_slides(decisions, screened):
        raise InputError(_why_none(out, left_out(decisions, screened)))
    scored = scored_slides(decisions, screened)
    figures = figures_of_slides(decisions, screened)
    if against is not None:
        figures["comparison"] = _compared(decisions, rows, against)
    judged = judged_slides(decisions, screened)
    figures |= figures_of_aggregations(out, judged, read=_read_table)
    if budget is not None:
        unscored = {r.slide_id: r.label for r in labelled_slides(decisions, screened)}.keys() - set(judged.slide_ids)
        n_ill = sum(is_anomalous(row.label) for row in screened if row.slide_id in unscored)
        figures["budget"] = budget_of(judged, budget, unscored=len(unscored), unscored_anomalous=n_ill)
    found = outline_uris({names[r.slide_id]: r.uri for r in scored}, outlines)
    uris = [found[names[r.slide_id]] for r in scored]
    if objects.name(out.rstrip("/")) == COMBINED:
        return figures | {"tile_auroc": None, "tiles_note": "several bundles together have no tile scores"}
    if not any_outline(uris):
        return figures | {"tile_auroc": None, "tiles_note": "no outlines found"}
    figures |= figures_of_tiles(_outlined(out, scored, uris, decisions), scored)
    return figures | figures_of_localisation(_outlined(out, scored, uris, decisions), decisions, detections)


def _why_none(out: str, used: Mapping[str, int]) -> str:
    if used:
        counts = " and ".join(f"{n} for {use}" for use, n in used.items())
        return f"{out}: all slides with a label were used before ({counts}); evaluate on slides that were not"
    return f"{out}: no slide of the manifest was screened there and has a label"


def _decisions(out: str) -> dict[str, dict[str, Any]]:
    """The rows of `SLIDE_DECISIONS` of a screening, by slide id; columns that older versions lack are None."""
    rows = _read_table(objects.join(out, "decisions.parquet")).to_pylist()
    return {row["slide_id"]: dict.fromkeys(SLIDE_DECISIONS.names) | row for row in rows}


def _compared(decisions: Mapping[str, Mapping[str, Any]], rows: Sequence[SlideRow], against: str) -> dict[str, Any]:
    """The comparison with another screening; a slide is known in both by its row of the manifest."""
    against = screening_of(against)
    _check_one_bundle(against)
    others = _decisions(against)
    here, there = (_by_manifest(each, rows) for each in (decisions, others))
    return compared(judged_slides(here, rows), judged_slides(there, rows), name=against)


def _by_manifest(decisions: Mapping[str, Mapping[str, Any]], rows: Sequence[SlideRow]) -> dict[str, Mapping[str, Any]]:
    """Decisions by the slide ids of the manifest."""
    pairs = zip(_screened_ids(decisions, rows), rows, strict=True)
    return {row.slide_id: decisions[slide_id] for slide_id, row in pairs if slide_id in decisions}


def _screened_ids(decisions: Mapping[str, Mapping[str, Any]], rows: Sequence[SlideRow]) -> list[str]:
    """The id of each slide of a manifest in a screening: its own, or that of the slide screened from the same place."""
    named = {row.slide_id for row in rows}
    by_uri = {decision["uri"]: slide_id for slide_id, decision in decisions.items() if slide_id not in named}
    return [r.slide_id if r.slide_id in decisions else by_uri.pop(r.uri, r.slide_id) for r in rows]


def _outlined(
    out: str, rows: Sequence[SlideRow], uris: Sequence[str], decisions: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[SlideRow, pa.Table, Any]]:
    """Each slide with its tiles and outlines.

    Anomalous slides without outlines are left out: which of their tiles are normal is not known.
    """
    for row, uri in zip(rows, uris, strict=True):
        size_px = (decisions[row.slide_id].get(f"{side}_level0_px") for side in ("width", "height"))
        outline = read_outlines(uri, size_level0_px=sized(*size_px))
        tiles = _read_table(objects.join(out, "tiles", f"{row.slide_id}.parquet"))
        if outline is not None or not is_anomalous(row.label):
            yield row, tiles, outline


def _read_table(uri: str) -> pa.Table:
    if not objects.exists(uri):
        raise InputError(f"{uri}: not there; is it the output of `uadray score` or a finished `uadray screen`?")
    try:
        return pq.read_table(io.BytesIO(objects.read_bytes(uri)))
    except pa.ArrowInvalid as error:
        raise InputError(f"{uri}: not a Parquet file: {error}") from error
