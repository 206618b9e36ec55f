"""Reads of slides that several drivers share: each claims its slide when it starts."""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from uadray.cluster.read_tasks import Read, reading
from uadray.cluster.stream import failed_part, read_slide
from uadray.errors import SYSTEM_REASONS, reason_of
from uadray.screening import leases
from uadray.screening.leases import Tenure
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec


def claimed_reads(
    rows: Sequence[SlideRow], spec: TileSpec, *, tenure: Tenure, withdrawn: Mapping[str, str]
) -> list[Read]:
    """One read task a slide, as `slide_reads`; a slide that is not ours gives one row of part -1, reason `NOT_OURS`."""
    return [
        reading(_read_claimed, index, row, spec, tenure, withdrawn.get(row.slide_id)) for index, row in enumerate(rows)
    ]


def _read_claimed(
    index: int, row: SlideRow, spec: TileSpec, tenure: Tenure, replaces: str | None
) -> Iterator[pa.Table]:
    try:
        outcome = leases.claim(tenure, row.slide_id, replaces=replaces)
    except Exception as error:  # what keeps a node from the leases says nothing about the slide
        word, message = reason_of(error)
        yield failed_part(index, word if word in SYSTEM_REASONS else "node", f"its lease cannot be had: {message}")
        return
    if outcome == "ours":
        yield from read_slide(index, row, spec)
    else:
        yield failed_part(index, outcome, f"another driver {'is at' if outcome == 'held' else 'has done'} this slide")
