"""What the bundles of a screening say of a slide, as their decisions have it."""

from collections.abc import Sequence

from uadray.decisions.verdict import Verdict, judge, used_before
from uadray.screening.bundles import ScreeningBundle
from uadray.screening.slide_result import SlideResult


def verdicts_of(result: SlideResult, bundles: Sequence[ScreeningBundle]) -> list[Verdict]:
    """One verdict of each bundle, in their order."""
    return [_verdict(result, index, each) for index, each in enumerate(bundles)]


def _verdict(result: SlideResult, index: int, each: ScreeningBundle) -> Verdict:
    scores, calibration = result.of_bundle(index), each.calibration
    spec, etag = each.bundle.tiles, result.header.get("etag")
    row = result.row
    verdict = judge(
        scores.tiles, scores.failure, calibration.aggregation, calibration, spec=spec, slide_id=row.slide_id,
        origin=row.origin,
    )  # fmt: skip
    return verdict | {"note": used_before(row, etag, each.bundle.trained_on, calibration.seen)}
