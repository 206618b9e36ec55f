"""Small pictures of a screening's slides, packed: sheets of `CELLS` each, which the worklist of many slides shows.

    worklist_data/thumbnails-<hash>.jpg    a sheet, see `reports.small_pictures`
    worklist_data/thumbnails.json          which slides, of which version, have which cell of which sheet

A slide's small picture stands at the head of its evidence file and is read by one request of 8 KB; of evidence that
older versions wrote, the whole file is read. Full sheets stay as they are: what is read and written at a renewal are
the slides that are new, and with them those of a sheet that is not full. So a run that stops is gone on with, and what
is lost is made anew.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from uadray.errors import InputError, NotFoundError
from uadray.reports.evidence_sheet import picture_in, preview_in
from uadray.reports.small_pictures import CELLS, sheet, small_picture
from uadray.screening.leases import REQUESTS
from uadray.storage import objects

FOLDER = "worklist_data"

_HEAD_BYTES = 8192
_EVIDENCE_BYTES = 64 * 2**20
_INDEX_BYTES = 256 * 2**20
INDEX = f"{FOLDER}/thumbnails.json"

Packs = dict[str, list[list[str]]]
"""Address of a sheet -> slide id and version of each of its cells."""


def pack(folder: str, decisions: pa.Table) -> Packs:
    """Bring the sheets of a folder up to date with its decisions; sheets that nobody needs stay for `tidy`.

    Args:
        folder: of one bundle's decisions and evidence.
        decisions: rows of `SLIDE_DECISIONS`.

    Returns:
        All sheets that are needed: those that are new come last.
    """
    wanted = _wanted(decisions)
    known = {name: cells for name, cells in _known(folder).items() if _is_kept(cells, wanted)}
    packs = known if not _missing(known, wanted) else {n: cells for n, cells in known.items() if len(cells) == CELLS}
    todo = _missing(packs, wanted)
    with ThreadPoolExecutor(REQUESTS, thread_name_prefix="uadray-thumbnails") as pool:
        for start in range(0, len(todo), CELLS):
            ids = todo[start : start + CELLS]
            cells = list(pool.map(lambda slide_id: _small_picture(folder, wanted[slide_id][1]), ids))
            data = sheet(cells)
            name = f"{FOLDER}/thumbnails-{hashlib.sha256(data).hexdigest()[:16]}.jpg"
            objects.write_bytes(objects.join(folder, name), data, content_type="image/jpeg")
            packs[name] = [[slide_id, wanted[slide_id][0]] for slide_id in ids]
    if todo:
        objects.write_bytes(objects.join(folder, INDEX), json.dumps(packs, separators=(",", ":")).encode())
    return packs


def cells_of(packs: Packs, slide_ids: Iterable[str]) -> list[tuple[int, int] | None]:
    """For each slide the place of its sheet in `packs` and its cell; None of one without."""
    places = {
        slide_id: (number, cell)
        for number, cells in enumerate(packs.values())
        for cell, (slide_id, _) in enumerate(cells)
    }
    return [places.get(slide_id) for slide_id in slide_ids]


def _wanted(decisions: pa.Table) -> dict[str, tuple[str, str]]:
    """Slides that have evidence: id -> version and path of the file."""
    columns = decisions.select(["slide_id", "pictures", "decided_at", "fingerprint"]).to_pydict()
    rows = zip(*columns.values(), strict=True)
    return {
        slide_id: (decided_at or fingerprint, path)
        for slide_id, path, decided_at, fingerprint in rows
        if path is not None and ".." not in path.removeprefix("../").split("/")
    }


def _uri(folder: str, path: str) -> str:
    """Where evidence lies: in this folder, or in that of another bundle beside it (`../a/evidence/s.svg`)."""
    if path.startswith("../"):
        return objects.join(objects.parent(folder), path.removeprefix("../"))
    return objects.join(folder, path)


def _missing(packs: Packs, wanted: Mapping[str, tuple[str, str]]) -> list[str]:
    """Slides that no sheet has as they are decided now."""
    there = {(slide_id, version) for cells in packs.values() for slide_id, version in cells}
    return [slide_id for slide_id, (version, _) in wanted.items() if (slide_id, version) not in there]


def _is_kept(cells: Sequence[Sequence[str]], wanted: Mapping[str, tuple[str, str]]) -> bool:
    """Whether at least half of a sheet is of slides as they are decided now."""
    current = sum(slide_id in wanted and wanted[slide_id][0] == version for slide_id, version in cells)
    return 0 < len(cells) <= 2 * current


def _known(folder: str) -> Packs:
    """The sheets that there are; none where their index is lost or cannot be understood."""
    try:
        packs: Any = json.loads(objects.read_bytes(objects.join(folder, INDEX), max_bytes=_INDEX_BYTES))
        return {
            str(name): [[str(a), str(b)] for a, b in cells] for name, cells in packs.items() if _is_sheet(str(name))
        }
    except NotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _is_sheet(name: str) -> bool:
    return re.fullmatch(rf"{FOLDER}/thumbnails-[0-9a-f]{{16}}\.jpg", name) is not None


def _small_picture(folder: str, path: str) -> bytes | None:
    """The small picture in a slide's evidence; None where that is lost or has none."""
    base, path = (objects.parent(folder), path[3:]) if path.startswith("../") else (folder, path)  # of several bundles
    uri = objects.join(base, path)
    try:
        try:
            found = preview_in(objects.read_ranges(uri, [(0, _HEAD_BYTES)], etag=None)[0])
        except InputError as error:  # a file shorter than this
            if isinstance(error, NotFoundError):
                return None
            found = None
        if found is not None:
            return found
        data = objects.read_bytes(uri, max_bytes=_EVIDENCE_BYTES)
        thumbnail, heatmap = preview_in(data), None
        if thumbnail is not None:
            return thumbnail
        thumbnail, heatmap = (picture_in(data, name) for name in ("thumbnail", "heatmap"))
        return small_picture(thumbnail, heatmap) if thumbnail and heatmap else None
    except NotFoundError:
        return None
