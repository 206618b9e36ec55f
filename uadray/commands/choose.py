"""`uadray calibrate --choose`: which way of making slide scores, on slides that do not calibrate."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from uadray.cluster.nodes import Nodes
from uadray.cluster.workers import StreamConfig
from uadray.decisions.aggregation import AggregationConfig, new_aggregation
from uadray.decisions.choosing import Choice, SlideSquares, check_counts, choose, choosers, slide_squares
from uadray.decisions.conformal import one_a_patient
from uadray.decisions.verdict import judge
from uadray.detectors.bundle import Bundle
from uadray.errors import InputError, shown, shown_text
from uadray.provenance import fingerprint
from uadray.screening.given_slides import given_slides
from uadray.screening.progress import Progress
from uadray.screening.results import scored_slides
from uadray.screening.slide_result import SlideResult
from uadray.slides import identity
from uadray.slides.manifest import SlideRow, has_label
from uadray.tiles.spec import TileSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choosers:
    """The slides that choose, and those that are left to calibrate.

    Attributes:
        normals: normal slides that choose.
        anomalies: anomalous slides.
        left: normal slides that calibrate.
        contents: slide id -> `identity.content`, of those that choose and can be read.
    """

    normals: list[SlideRow]
    anomalies: list[SlideRow]
    left: list[SlideRow]
    contents: Mapping[str, str]

    @property
    def rows(self) -> list[SlideRow]:
        """All slides that choose."""
        return [*self.normals, *self.anomalies]


@dataclass(frozen=True)
class Chosen:
    """What was chosen, and by which slides.

    Attributes:
        choice: the method and the comparison of all.
        default: what stays where no other method is better.
        choosers: the slides.
        etags: slide id -> etag of the file, of the slides that were scored.
        left_out: slide id -> why the slide has no score and did not choose.
    """

    choice: Choice
    default: AggregationConfig
    choosers: Choosers
    etags: Mapping[str, str | None]
    left_out: Mapping[str, str]

    @property
    def aggregation(self) -> AggregationConfig:
        """That makes slide scores from now on."""
        return self.default if self.choice.method == self.default.method else new_aggregation(self.choice.method)

    def marks(self, salt: str) -> list[str]:
        """The marks of the slides that chose, see `identity.all_marks`."""
        return identity.all_marks(self.choosers.rows, salt, etags=self.etags, contents=self.choosers.contents)


def choosers_of(
    uri: str, rows: Sequence[SlideRow], *, bundle: Bundle, alpha: float, contents: Mapping[str, str]
) -> Choosers:
    """The slides of a manifest that choose. Where it has no normal ones, some of the calibration's take their place.

    Args:
        uri: manifest of anomalous slides, and of normal ones that do not calibrate.
        rows: normal slides that are to calibrate.
        bundle: has not been trained on any.
        alpha: share of normal slides that may be called anomalous.
        contents: slide id -> `identity.content`, of `rows`.

    Raises:
        InputError: slides without a label, trained on, or there twice; too few, or too many anomalous ones.
    """
    given = given_slides(uri)
    without = [row.slide_id for row in given if not row.label]
    if without:
        raise InputError(f"{uri}: --choose needs the label of every slide; without one: {', '.join(without[:5])}")
    normals = [row for row in given if has_label(row.label, "normal")]
    anomalies = [row for row in given if not has_label(row.label, "normal")]
    n_patients = len({row.patient for row in normals})
    check_counts(n_patients or len({row.patient for row in rows}), len(anomalies))
    theirs = identity.contents(given)
    _check_apart(given, rows, bundle, {**contents, **theirs})
    if normals:
        return Choosers(normals, anomalies, list(rows), theirs)
    chosen = choosers({row.patient for row in rows}, alpha=alpha)
    left = [row for row in rows if row.patient not in chosen]
    normals = [row for row in rows if row.patient in chosen]
    known = {row.slide_id: contents[row.slide_id] for row in normals if row.slide_id in contents}
    return Choosers(normals, anomalies, left, {**theirs, **known})


def _check_apart(
    given: Sequence[SlideRow], rows: Sequence[SlideRow], bundle: Bundle, contents: Mapping[str, str]
) -> None:
    """Refuse slides that were trained on, that stand in both manifests or twice, and normal ones of one patient."""
    trained = [r.slide_id for r in given if identity.is_seen(r, bundle.trained_on, content=contents.get(r.slide_id))]
    if trained:
        raise InputError(f"slides that choose must not have been trained on: {', '.join(trained[:5])}")
    both = sorted({row.slide_id for row in given} & {row.slide_id for row in rows})
    places = {row.slide_id: contents.get(row.slide_id, row.uri) for row in (*given, *rows)}
    both += [" = ".join(ids[:5]) for ids in identity.groups(places)]
    if both:
        raise InputError(f"slides that choose stand there once, and do not calibrate: {'; '.join(both[:5])}")
    patients = {row.patient for row in rows}
    shared = [row.slide_id for row in given if has_label(row.label, "normal") and row.patient in patients]
    if shared:
        raise InputError(f"normal slides that choose are of patients who do not calibrate: {', '.join(shared[:5])}")


def chosen_by(
    slides: Choosers, *, bundle_uri: str, bundle: Bundle, alpha: float, default: AggregationConfig,
    config: StreamConfig, nodes: Nodes | None = None, progress: Progress | None = None,
) -> Chosen:  # fmt: skip
    """Score the slides that choose, and choose.

    Args:
        slides: of `choosers_of`.
        bundle_uri: where the bundle is.
        bundle: its description.
        alpha: share of normal slides that may be called anomalous.
        default: stays unless another method is better, see `decisions.choosing`.
        config: how the cluster is shared.
        nodes: the nodes of the cluster that are used.
        progress: told of slides and tiles.

    Raises:
        InputError: too few slides can be scored.
    """
    n_done, n_tiles = 0, 0

    def tick(note: str = "") -> None:
        if progress is not None:
            progress(n_done, len(slides.rows), n_tiles, note)

    def counted() -> Iterator[SlideResult]:
        nonlocal n_done, n_tiles
        for result in scored_slides(slides.rows, bundles={bundle_uri: bundle}, config=config, nodes=nodes, say=tick):
            tiles = result.of_bundle().tiles
            n_done, n_tiles = n_done + 1, n_tiles + (len(tiles) if tiles is not None else 0)
            tick()
            yield result

    return chosen_from(counted(), slides, spec=bundle.tiles, alpha=alpha, default=default)


def chosen_from(
    results: Iterable[SlideResult], slides: Choosers, *, spec: TileSpec, alpha: float, default: AggregationConfig
) -> Chosen:
    """Choose by the results of the slides, in any order; see `chosen_by`."""
    looked, etags, left_out = dict[str, SlideSquares](), dict[str, str | None](), dict[str, str]()
    for result in results:
        slide_id, scores = result.row.slide_id, result.of_bundle()
        verdict = judge(scores.tiles, scores.failure, default, spec=spec)
        if verdict["state"] != "scored" or scores.tiles is None:
            left_out[slide_id] = f"{verdict['reason']}: {verdict['message']}"
            continue
        looked[slide_id], etags[slide_id] = slide_squares(scores.tiles, spec), result.header.get("etag")
    normals = one_a_patient({row.slide_id: row.patient for row in slides.normals if row.slide_id in looked})
    in_folds = sorted(normals, key=lambda slide_id: fingerprint(["fold", slide_id]))
    anomalies = [looked[row.slide_id] for row in slides.anomalies if row.slide_id in looked]
    for slide_id, why in list(left_out.items())[:5]:
        log.warning("%s does not choose: %s", shown(slide_id), shown_text(why))
    choice = choose([looked[slide_id] for slide_id in in_folds], anomalies, alpha=alpha, default=default)
    return Chosen(choice, default, slides, etags, left_out)
