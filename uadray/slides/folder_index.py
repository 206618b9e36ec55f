"""A folder or bucket -> the slides in it, as rows of a manifest, and what is left out and why."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import pyarrow as pa

from uadray.errors import AccessError, InputError
from uadray.slides.manifest import SlideRow
from uadray.slides.manifest_checks import check_ids, why_unusable
from uadray.storage import dicom_series, objects

SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".czi")
"""A file with one of these suffixes is a slide. DICOM is not among them: there, a series of files is a slide."""

_REQUESTS = 32

LeftOut = dict[str, list[str]]
"""Paths in the folder that are not in the list, by the reason."""


def index_folder(uri: str, *, left_out: LeftOut | None = None) -> list[SlideRow]:
    """List the slides in a folder or bucket and below; of a DICOM series, its first file. No other headers are read.

    A slide's id is its path in the folder, without suffix and with `__` for `/`. Where two slides would get the same
    id, both keep the suffix.

    Args:
        uri: the folder.
        left_out: gets what is there and not in the list, by reason: files of other suffixes, hidden ones, links to
            folders, links that lead nowhere, names that are no UTF-8 or cannot be an id. Files of an MRXS slide's
            folder belong to the slide and are not named.

    Raises:
        InputError: there are no slides, or an id is not unique.
    """
    root = objects.join(objects.resolve(uri, "."), "").rstrip("/") + "/"
    others: LeftOut = defaultdict(list)
    slides = _slides(root, others)
    ids = _ids({info.uri: info.uri.removeprefix(root) for info in slides}, others)
    if left_out is not None:
        left_out.update(others)
    if not ids:
        counts = "".join(f"; {len(names)} left out: {reason}" for reason, names in sorted(others.items())[:5])
        raise InputError(f"{uri}: no slides there ({', '.join(SLIDE_SUFFIXES)}, DICOM){counts}")
    check_ids(pa.table({"slide_id": list(ids.values()), "row": list(ids)}), uri, at="")
    return sorted((SlideRow(slide_id, slide_uri) for slide_uri, slide_id in ids.items()), key=lambda row: row.uri)


def _slides(root: str, others: LeftOut) -> list[objects.ObjectInfo]:
    """The files that stand for a slide each; all others go to `others`."""
    files = list(_visible_files(root, others))
    slides = [info for info in files if info.uri.lower().endswith(SLIDE_SUFFIXES)]
    folders_of_mrxs = {info.uri[: -len(".mrxs")] for info in slides if info.uri.lower().endswith(".mrxs")}
    rest = [
        info
        for info in files
        if not info.uri.lower().endswith(SLIDE_SUFFIXES) and not _lies_in(info.uri, folders_of_mrxs, root)
    ]
    return slides + _first_files_of_series(rest, root, others)


def _ids(paths: dict[str, str], others: LeftOut) -> dict[str, str]:
    """URI -> slide id, of slides given as URI -> path in the folder; a path without a usable id goes to `others`."""
    short = {uri: str(PurePosixPath(path).with_suffix("")).replace("/", "__") for uri, path in paths.items()}
    times = Counter(short.values())
    ids = {uri: short[uri] if times[short[uri]] == 1 else paths[uri].replace("/", "__") for uri in paths}
    for uri, slide_id in list(ids.items()):
        if why := why_unusable(slide_id):
            others[f"its id would {why}"].append(paths[uri])
            del ids[uri]
    return ids


def _visible_files(root: str, others: LeftOut) -> Iterator[objects.ObjectInfo]:
    """The files in a folder and below; hidden ones go to `others`."""
    for info in objects.list_objects(root, left_out=lambda reason, path: others[reason].append(_shown(path, root))):
        path = info.uri.removeprefix(root)
        if any(name.startswith(".") for name in path.split("/")):
            others["hidden"].append(path)
        else:
            yield info


def _shown(path: str, root: str) -> str:
    """A path in the folder as text, whatever its bytes are."""
    return os.fsencode(path.removeprefix(root)).decode("utf-8", "backslashreplace")


def _lies_in(uri: str, folders: set[str], root: str) -> bool:
    """Whether one of the folders above this file is among `folders`."""
    above = uri
    while folders and len(above := above.rpartition("/")[0]) > len(root):
        if above in folders:
            return True
    return False


def _first_files_of_series(files: list[objects.ObjectInfo], root: str, others: LeftOut) -> list[objects.ObjectInfo]:
    """The first file of each DICOM series of a folder; what is no DICOM goes to `others` by its suffix."""
    dicom = [info for info in files if info.uri.lower().endswith(dicom_series.DICOM_SUFFIXES)]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        series_of = dict(zip((info.uri for info in dicom), pool.map(_series_or_none, dicom), strict=True))
    first: dict[tuple[str, str], objects.ObjectInfo] = {}
    for info in sorted(files, key=lambda info: info.uri):
        path = info.uri.removeprefix(root)
        if info.uri not in series_of:
            suffix = re.search(r"\.[A-Za-z]\w{0,9}$", path)
            others[f"suffix {suffix[0].lower()}" if suffix else "no suffix"].append(path)
        elif (series := series_of[info.uri]) is None:
            others["no DICOM series can be read in it"].append(path)
        else:
            first.setdefault((objects.parent(info.uri), series), info)
    return list(first.values())


def _series_or_none(info: objects.ObjectInfo) -> str | None:
    try:
        return dicom_series.series(info)
    except AccessError:
        return None
