"""What a decided job has in its screening's folder: its decision, tile scores, masks and pictures. Blocks."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uadray.errors import NotFoundError
from uadray.screening import leases
from uadray.screening.slide_outputs import decisions_of
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.jobs.folders import screening_folder
from uadray.serving.jobs.records import JobRecord
from uadray.serving.services import Services
from uadray.storage import objects

MAX_PAGE = 10_000
"""Tiles in a page of JSON."""


def decision_record(services: Services, record: JobRecord) -> dict[str, Any]:
    """The ledger's record of a job's decision.

    Raises:
        RefusedError: 409, it is not decided (yet).
    """
    end = services.jobs.end(record.id)
    if end is None or end.end == "committing":
        raise RefusedError(409, "the slide is not decided yet; its status says how far it is", {"Retry-After": "2"})
    if end.end == "cancelled":
        raise RefusedError(409, "the job was cancelled; no decision was made")
    folder = screening_folder(services.config.out, record.screening)
    there = leases.read_with_etag(leases.decision_uri(folder, record.slide.slide_id))
    if there is None:
        raise RefusedError(404, "the decision is gone from the endpoint's folder")
    return there[1]


def result_bytes(services: Services, record: JobRecord, path: str, *, bundle: str | None) -> bytes:
    """A file of a decided slide: `tiles/...parquet` or `evidence/...svg` of a bundle, `masks/...geojson` of all.

    Raises:
        RefusedError: 404, a slide that was not scored has none.
    """
    decisions = decisions_of(decision_record(services, record))
    folders = [decision["bundle"] for decision in decisions]
    if bundle is not None and bundle not in folders:
        names = ", ".join(str(name) for name in folders if name) or "none by name: it had one bundle"
        raise RefusedError(404, f"no bundle {bundle!r} decided this slide; there are {names}")
    within = bundle or folders[0]
    folder = screening_folder(services.config.out, record.screening)
    if within and not path.startswith("masks/"):
        folder = objects.join(folder, within)
    try:
        return objects.read_bytes(objects.join(folder, *path.split("/")))
    except NotFoundError as error:
        raise RefusedError(404, "there is none: the slide was not scored, or shows nothing of the kind") from error


def tile_page(parquet: bytes, *, start: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
    """Rows of tile scores from `start` on, and where the next page starts; None at the end."""
    table = pq.read_table(pa.BufferReader(parquet))
    rows = table.slice(start, limit).to_pylist()
    after = start + len(rows)
    return rows, after if after < len(table) else None
