"""What a training's slides hold, before a step is made: their tiles with tissue, or why there are none.

Metadata and thumbnails alone are read. Who calls `survey_slide` for every slide (the cluster's tasks, or threads of
this process) is said by the caller.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from uadray.errors import SYSTEM_REASONS, WorkError, reason_of
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.tiles.plan import plan_slide
from uadray.tiles.spec import TileSpec
from uadray.tiles.stain import Stain
from uadray.training.passes import pack_corners
from uadray.training.slide_source import is_staged

SURVEYS_IN_A_ROW = 5
"""Slides, one after the other, that cannot be reached for no fault of theirs: then nothing can be."""

THREADS = 8
"""Slides that are surveyed at once without a cluster."""


@dataclass(frozen=True)
class Survey:
    """A slide's tiles, or why there are none.

    Attributes:
        row: the slide's line of the manifest.
        etag: the version of its file.
        n_tiles: its tiles with enough tissue.
        packed: their corners in level-0 pixels, see `uadray.training.passes.pack_corners`.
        staged: read through a local copy of the whole file.
        stain: its stain, where colours are normalised.
        error: what went wrong.
        is_systems: what went wrong says nothing about the slide.
    """

    row: SlideRow
    etag: str = ""
    n_tiles: int = 0
    packed: bytes = b""
    staged: bool = False
    stain: Stain | None = None
    error: str | None = None
    is_systems: bool = False


SurveyEach = Callable[[list[SlideRow], TileSpec], Iterator[Survey]]
"""Surveys slides, in any order."""


def survey(rows: list[SlideRow], spec: TileSpec, each: SurveyEach) -> list[Survey]:
    """Survey every slide; order as in `rows`.

    What cannot be reached for no fault of its own is tried once more when all others are done, beside a slide that
    could be: if that cannot be reached either, nothing can.

    Raises:
        WorkError: credentials, network or disk are at fault.
    """
    surveys = {s.row.slide_id: s for s in _counted(each(rows, spec))}
    unreached = [s for s in surveys.values() if s.is_systems]
    if unreached:
        good = next((s for s in surveys.values() if not s.is_systems and s.etag), None)
        asked = [s.row for s in [*unreached, *([good] if good else [])]]
        again = {s.row.slide_id: s for s in _counted(each(asked, spec))}
        if good is None or again[good.row.slide_id].is_systems:
            raise _unreached(len(unreached), unreached[0])
        surveys |= again
    return [surveys[row.slide_id] for row in rows]


def _counted(surveys: Iterator[Survey]) -> Iterator[Survey]:
    """Pass surveys on; end where the system fails at several in a row."""
    in_a_row = 0
    for result in surveys:
        in_a_row = in_a_row + 1 if result.is_systems else 0
        if in_a_row >= SURVEYS_IN_A_ROW:
            raise _unreached(in_a_row, result)
        yield result


def _unreached(n: int, last: Survey) -> WorkError:
    return WorkError(
        f"{n} slide{'s' if n > 1 else ''} could not be reached, for no fault of theirs; slide {last.row.slide_id}: "
        f"{last.error}; nothing was trained: mend that and run the same command again"
    )


def in_threads(rows: list[SlideRow], spec: TileSpec) -> Iterator[Survey]:
    """Survey slides in threads of this process."""
    with ThreadPoolExecutor(THREADS) as threads:
        yield from threads.map(survey_slide, rows, [spec] * len(rows))


def survey_slide(row: SlideRow, spec: TileSpec) -> Survey:
    """Open a slide and lay its grid."""
    try:
        etag = slide_etag(row)
        with open_slide(row.uri, slide_id=row.slide_id, mpp=row.mpp, etag=etag) as slide:
            plan = plan_slide(slide, etag=etag, spec=spec)
            corners = np.stack([plan.tiles[name].to_numpy() for name in ("x_level0_px", "y_level0_px")], axis=1)
            packed = pack_corners(corners)
            return Survey(row, etag, len(corners), packed, is_staged(row.uri, slide), plan.stain)
    except Exception as error:  # of this slide, whatever it is: the others go on
        word, message = reason_of(error)
        return Survey(row, error=f"{word}: {' '.join(message.split())[:300]}", is_systems=word in SYSTEM_REASONS)
