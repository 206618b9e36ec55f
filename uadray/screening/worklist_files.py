"""The worklist of one bundle's decisions as files: the page and what it reads, CSV, and XLSX.

    worklist.html, worklist.csv, worklist.xlsx
    worklist_data/          of more than `PLAIN` slides: what the page reads when a slide is opened, small pictures

What the page reads is there before the page, and its names change with what it says: a page that is open while the
worklist is renewed never shows one slide's details as another's. What the page before had read is deleted after.
"""

import json
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pyarrow as pa

from uadray.errors import NotFoundError
from uadray.reports.entries import SlideEntry
from uadray.reports.ranking import rank
from uadray.reports.spreadsheets import worklist_csv, write_worklist_xlsx
from uadray.reports.worklist import Beside, Run, render_worklist, slide_entries
from uadray.reports.worklist_data import DETAILS, details_file
from uadray.screening import packed_pictures
from uadray.screening.leases import REQUESTS
from uadray.storage import objects

WORKLIST, CSV, XLSX = "worklist.html", "worklist.csv", "worklist.xlsx"
DATA = packed_pictures.FOLDER

PLAIN = 1000
"""Up to so many slides all stand in the page, for readers without JavaScript, for printing, and in one file."""

_NAMES = f"{DATA}/names.json"
_NAMES_BYTES = 2**24
_JS_TYPE = "text/javascript"
_XLSX_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def write_worklist(
    folder: str, decisions: pa.Table, *, title: str, run: Run, picture_kinds: tuple[str, ...], thumbnails: str,
    plain: int = PLAIN,
) -> str:  # fmt: skip
    """Write them; returns the URI of the page.

    Args:
        folder: of the decisions and their evidence.
        decisions: rows of `SLIDE_DECISIONS`.
        title: see `render_worklist`, as of the next three.
        run: what to say about the run.
        picture_kinds: of evidence tiles.
        thumbnails: where pictures of their own files lie.
        plain: slides that stand in the page at most.
    """
    ranked = rank(decisions)
    beside, before = None, _names_before(folder)
    if len(ranked) > plain:
        packs = packed_pictures.pack(folder, ranked)
        entries = slide_entries(
            ranked, tile_um=run.get("tile_um", 0.0), picture_kinds=picture_kinds, thumbnails=thumbnails
        )
        beside = Beside(
            details=_written(folder, entries), folder=DATA, sheets=list(packs),
            cells=packed_pictures.cells_of(packs, ranked["slide_id"].to_pylist()),
        )  # fmt: skip
    page = objects.join(folder, WORKLIST)
    html = render_worklist(
        ranked, title=title, run=run, picture_kinds=picture_kinds, thumbnails=thumbnails, beside=beside
    )
    objects.write_bytes(page, html.encode(), content_type="text/html; charset=utf-8")
    del html
    objects.write_bytes(objects.join(folder, CSV), worklist_csv(ranked).encode(), content_type="text/csv")
    with tempfile.TemporaryDirectory(prefix="uadray-worklist-") as scratch:
        write_worklist_xlsx(ranked, Path(scratch) / XLSX)
        objects.write_bytes(objects.join(folder, XLSX), (Path(scratch) / XLSX).read_bytes(), content_type=_XLSX_TYPE)
    _tidy(folder, before, beside)
    return page


def _written(folder: str, entries: Iterable[SlideEntry]) -> list[str]:
    """Write the details of all slides, some files at a time; returns their names."""
    names, slides = list[str](), iter(entries)
    with ThreadPoolExecutor(REQUESTS, thread_name_prefix="uadray-worklist") as pool:
        while files := [details_file(part) for _ in range(REQUESTS) if (part := list(islice(slides, DETAILS)))]:
            uris = [objects.join(folder, DATA, f"{name}.js") for name, _ in files]
            texts = [text.encode() for _, text in files]
            list(pool.map(lambda uri, data: objects.write_bytes(uri, data, content_type=_JS_TYPE), uris, texts))
            names += [name for name, _ in files]
    return names


def _names_before(folder: str) -> list[str]:
    """What the last page reads; empty where it is not known."""
    try:
        names = json.loads(objects.read_bytes(objects.join(folder, _NAMES), max_bytes=_NAMES_BYTES))
        return [str(name) for name in names if "/" not in str(name)]
    except NotFoundError:
        return []
    except (ValueError, TypeError):
        return []


def _tidy(folder: str, before: list[str], beside: Beside | None) -> None:
    """Note what the new page reads, and delete what only the last one did."""
    if beside is None and not before:
        return
    sheets = [objects.name(address) for address in beside.sheets] if beside else []
    now = [f"{name}.js" for name in beside.details] + sheets if beside else []
    objects.write_bytes(objects.join(folder, _NAMES), json.dumps(now).encode())
    gone = sorted(set(before) - set(now)) + ([] if beside else [objects.name(packed_pictures.INDEX)])
    objects.delete_all([objects.join(folder, DATA, name) for name in gone])
