"""`uadray calibrate`: normal slides -> `calibration.json` beside the bundle."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from uadray import provenance
from uadray.cluster.nodes import Nodes
from uadray.cluster.workers import StreamConfig
from uadray.commands.calibration_checks import check, warn_of_equal_scores
from uadray.commands.choose import Chosen, choosers_of, chosen_by
from uadray.commands.cluster import join_cluster
from uadray.commands.progress import progress, tile_progress
from uadray.decisions.aggregation import AggregationConfig, new_aggregation, reference_of, score_of, scored_squares
from uadray.decisions.conformal import (
    MAX_NAME,
    Calibration,
    Kind,
    NormalSlide,
    calibration_id,
    check_alpha,
    one_a_patient,
)
from uadray.decisions.groups import groups_of, kinds_of, stated_rates
from uadray.decisions.neighbourhoods import Squares
from uadray.decisions.tile_reference import TileReference
from uadray.decisions.tile_tail import tile_tail_of
from uadray.decisions.verdict import judge
from uadray.detectors.bundle import Bundle, read_bundle
from uadray.screening.bundle_calibrations import write_calibration
from uadray.screening.given_slides import given_slides
from uadray.screening.progress import Progress
from uadray.screening.results import scored_slides
from uadray.screening.slide_outputs import measures_of
from uadray.screening.slide_result import SlideResult
from uadray.slides import identity
from uadray.slides.manifest import SlideRow
from uadray.tiles.cells import Cells, cells_of, smoothed
from uadray.tiles.mask_folder import check_folder
from uadray.tiles.spec import TileSpec

CELL_TILES = 1000
"""Of a slide, the tiles whose cells are remembered, evenly spread: quantiles of a large archive stay in memory."""

QUANTILES = 101
"""How many quantiles of all tile scores a calibration keeps: one at each whole per cent."""


def run(
    bundle_uri: str, *, slides_uri: str, split: str | None, alpha: float, method: str, top_fraction: float | None,
    mask_dir: str | None, stream: StreamConfig, by: str = "", smoothed: bool = False, choose: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Join the cluster and calibrate the bundle.

    Args:
        bundle_uri: gets the calibration.
        slides_uri: manifest, folder or s3:// prefix of normal slides.
        split: only the slides of this split; None takes all.
        alpha: share of normal slides that may be called anomalous.
        method: how tile scores become a slide's score, see `AggregationConfig`; with `choose` unless another is better.
        top_fraction: the share of the highest that it takes the mean of; None for the method's own.
        mask_dir: folder of edited masks.
        stream: how the cluster is shared.
        by: of what slides are compared with their own: site, scanner and stain, with commas; empty for none.
        smoothed: decide by smoothed p-values.
        choose: manifest of a few known anomalous slides that choose the method, see `commands.choose`.

    Returns:
        The calibration's id, counts, the rate that it gives with its interval, also by group, and `left_out`: the
        slides without a score, with the reason; `choice`, the comparison of the methods, where there was one.
    """
    bundle, rows = read_bundle(bundle_uri), given_slides(slides_uri, split=split)
    aggregation = new_aggregation(method, top_fraction=top_fraction)
    group_by = kinds_of(by)
    contents = check(rows, bundle, alpha=alpha, group_by=group_by)
    slides = choosers_of(choose, rows, bundle=bundle, alpha=alpha, contents=contents) if choose else None
    masks_used = len(check_folder(mask_dir, [row.slide_id for row in rows]).used)
    with progress("calibrate") as tick:
        nodes = join_cluster(bundle_uris=[bundle_uri])
        masked, chosen = bundle.with_masks(mask_dir), None
        if slides is not None:
            chosen = chosen_by(
                slides, bundle_uri=bundle_uri, bundle=masked, alpha=alpha, default=aggregation, config=stream,
                nodes=nodes, progress=tile_progress(tick),
            )  # fmt: skip
            rows, aggregation = slides.left, chosen.aggregation
        calibration, left_out = calibrate(
            rows, bundle_uri=bundle_uri, bundle=masked, alpha=alpha, aggregation=aggregation, config=stream,
            nodes=nodes, contents=contents, progress=tile_progress(tick), group_by=group_by, smoothed=smoothed,
            method_choice=chosen,
        )  # fmt: skip
    counts = {"slides": len(rows) - len(left_out), "patients": len(calibration.scores), "masks_used": masks_used}
    choice = {"choice": chosen.choice.model_dump()} if chosen is not None else {}
    left_out = {**(chosen.left_out if chosen is not None else {}), **left_out}
    return {"calibration": calibration.id, **counts, **stated_rates(calibration), **choice, "left_out": left_out}


def calibrate(
    rows: list[SlideRow], *, bundle_uri: str, bundle: Bundle, alpha: float, aggregation: AggregationConfig,
    config: StreamConfig | None = None, progress: Progress | None = None, nodes: Nodes | None = None,
    contents: Mapping[str, str] | None = None, group_by: tuple[Kind, ...] = (), smoothed: bool = False,
    method_choice: Chosen | None = None,
) -> tuple[Calibration, dict[str, str]]:  # fmt: skip
    """Score normal slides, keep one score a patient, and write the calibration into the bundle.

    Args:
        rows: normal slides that were not trained on.
        bundle_uri: where the bundle is.
        bundle: its description.
        alpha: share of normal slides that may be called anomalous.
        aggregation: how tile scores become a slide's score.
        config: how the cluster is shared.
        progress: told of slides and tiles.
        nodes: the nodes of the cluster that are used.
        contents: what `check` returned, if it was called before.
        group_by: what groups of slides differ in.
        smoothed: decide by smoothed p-values.
        method_choice: which slides chose the method, where any did; `aggregation` is of it.

    Returns:
        The calibration, and the slides that could not be scored with the reason.

    Raises:
        InputError: see `check`; or too few patients' slides can be scored.
    """
    contents = check(rows, bundle, alpha=alpha, group_by=group_by) if contents is None else contents
    normals = _score_normals(
        rows, bundle_uri=bundle_uri, bundle=bundle, aggregation=aggregation, config=config or StreamConfig(),
        progress=progress, nodes=nodes,
    )  # fmt: skip
    used = [row for row in rows if row.slide_id in normals.squares]
    origins, patients = {row.slide_id: row.origin for row in used}, {row.slide_id: row.patient for row in used}
    chosen = one_a_patient(patients)
    check_alpha(alpha, len(chosen))
    reference = reference_of([normals.squares[slide_id] for slide_id in chosen], aggregation)
    scores = normals.scores(aggregation, reference)
    warn_of_equal_scores(scores)
    salt = identity.new_salt()
    marks = set(identity.all_marks(used, salt, etags=normals.etags, contents=contents))
    marks |= set(method_choice.marks(salt) if method_choice is not None else ())
    calibration = _calibration(
        [scores[slide_id] for slide_id in chosen], normals.tiles, bundle, alpha, aggregation, reference
    ).model_copy(update={
        "salt": salt, "slides": tuple(sorted(marks)), "made": provenance.now_iso(),
        "normals": _normal_slides(used, chosen, normals), "choice": method_choice and method_choice.choice,
        "group_by": group_by, "groups": groups_of(scores, origins, patients, group_by), "smoothed": smoothed,
        **_cell_scale(normals.cells),
    })  # fmt: skip
    calibration = Calibration.model_validate(calibration.model_dump() | {"id": calibration_id(calibration)})
    write_calibration(bundle_uri, calibration)
    return calibration, normals.left_out


def _normal_slides(rows: list[SlideRow], chosen: list[str], normals: "_Normals") -> tuple[NormalSlide, ...]:
    """What is kept of the chosen slides, sorted by what it says: the order tells nothing of who they are."""
    of_slide = {row.slide_id: row for row in rows}
    kept = [
        NormalSlide.model_validate(_origin(row) | normals.measures[row.slide_id])
        for row in (of_slide[slide_id] for slide_id in chosen)
    ]
    return tuple(sorted(kept, key=lambda each: each.model_dump_json()))


def _origin(row: SlideRow) -> dict[str, Any]:
    """Where a slide is from, in as many letters as a calibration takes."""
    return {kind: name and name[:MAX_NAME] for kind, name in row.origin.items()}


@dataclass
class _Normals:
    """What became of the normal slides.

    Attributes:
        squares: slide id -> what its score is made of, as soon as all slides are known.
        etags: slide id -> etag of its file.
        tiles: the tile scores of each slide that has a score.
        left_out: slide id -> why the slide has no score.
        measures: slide id -> its `slide_measures`.
        cells: smoothed, of `CELL_TILES` tiles of each slide at most, where the detector gives any.
    """

    squares: dict[str, Squares] = field(default_factory=dict)
    etags: dict[str, str | None] = field(default_factory=dict)
    tiles: list[npt.NDArray[np.float64]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    measures: dict[str, dict[str, float | None]] = field(default_factory=dict)
    cells: list[Cells] = field(default_factory=list)

    def scores(self, aggregation: AggregationConfig, reference: TileReference) -> dict[str, float]:
        """Slide id -> the slide's score, of all that have one."""
        return {name: score_of(squares, aggregation, reference=reference) for name, squares in self.squares.items()}

    def add(self, result: SlideResult, aggregation: AggregationConfig, spec: TileSpec) -> None:
        """Take a slide's result in."""
        slide_id, of_bundle = result.row.slide_id, result.of_bundle()
        verdict = judge(of_bundle.tiles, of_bundle.failure, aggregation, spec=spec)
        if verdict["state"] != "scored" or of_bundle.tiles is None:
            self.left_out[slide_id] = f"{verdict['reason']}: {verdict['message']}"
            return
        self.squares[slide_id] = scored_squares(of_bundle.tiles, aggregation, spec=spec)
        self.measures[slide_id] = measures_of(result)
        self.etags[slide_id] = result.header.get("etag")
        self.tiles.append(of_bundle.tiles["score"].drop_null().to_numpy())
        cells = cells_of(of_bundle.tiles)
        if cells is not None:
            self.cells.append(smoothed(cells)[np.linspace(0, len(cells) - 1, min(len(cells), CELL_TILES)).astype(int)])


def _score_normals(
    rows: list[SlideRow], *, bundle_uri: str, bundle: Bundle, aggregation: AggregationConfig, config: StreamConfig,
    progress: Progress | None, nodes: Nodes | None,
) -> _Normals:  # fmt: skip
    normals = _Normals()

    def tick(note: str = "") -> None:
        if progress is not None:
            n_done = len(normals.squares) + len(normals.left_out)
            progress(n_done, len(rows), sum(map(len, normals.tiles)), note)

    for result in scored_slides(rows, bundles={bundle_uri: bundle}, config=config, nodes=nodes, say=tick):
        normals.add(result, aggregation, bundle.tiles)
        tick()
    return normals


def _calibration(
    scores: list[float], slides: list[npt.NDArray[np.float64]], bundle: Bundle, alpha: float,
    aggregation: AggregationConfig, reference: TileReference,
) -> Calibration:  # fmt: skip
    """The calibration of these slide scores, and of the tile scores of each slide; not yet with a name of its own."""
    tiles = np.concatenate(slides)
    median, p99 = (float(q) for q in np.quantile(tiles, [0.5, 0.99]))
    return Calibration(
        id="", bundle_id=bundle.id, aggregation=aggregation, alpha=alpha, scores=tuple(sorted(scores)),
        tile_median=median, tile_p99=p99, tile_high=median + 1.5 * (p99 - median), tile_ceiling=reference.ceiling,
        tile_reference=None if reference == TileReference(ceiling=reference.ceiling) else reference,
        tile_quantiles=tuple(np.quantile(tiles, np.linspace(0, 1, QUANTILES)).tolist()), tile_tail=tile_tail_of(slides),
    )  # fmt: skip


def _cell_scale(cells: list[Cells]) -> dict[str, float]:
    """The scale of a heatmap of cells; nothing where the detector gives none."""
    values = np.concatenate([of_slide.ravel() for of_slide in cells]) if cells else np.empty(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    median, p99 = (float(q) for q in np.quantile(values, [0.5, 0.99]))
    return {"cell_median": median, "cell_p99": p99, "cell_high": median + 1.5 * (p99 - median)}
