"""Which files make up a slide: most slides are one file, those of some formats are several.

- MRXS: `x.mrxs` and all of the folder `x/` beside it;
- VMS and VMU: the files beside it that the key file names;
- DICOM: the files of the same series in the same folder, whichever of them is given.

The etag of such a slide is made of the etags of all its files. Names of objects, and names in key files, are untrusted
input: those that would lead out of the folder of a copy are refused.
"""

import hashlib
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

from uadray.errors import InputError, NotFoundError
from uadray.storage import objects
from uadray.storage.dicom_series import DICOM_SUFFIXES, series
from uadray.storage.uris import ObjectInfo, join, name, parent

MAX_FILES = 10_000
"""Files a slide may have. Real slides have tens to hundreds; a folder of more objects is not one slide."""

_MRXS, _KEY_FILES = (".mrxs",), (".vms", ".vmu")
_KEY_FILE_BYTES = 64 * 2**10  # as OpenSlide does
_REQUESTS = 32


@dataclass(frozen=True)
class Member:
    """One file of a slide. `path` is where it lies in a copy: relative, `slide.<suffix>` for the one that is opened."""

    path: str
    info: ObjectInfo


@dataclass(frozen=True)
class SlideFiles:
    """All files of a slide; the first is the one that readers open."""

    members: tuple[Member, ...]

    @property
    def main(self) -> Member:
        """The file that readers open."""
        return self.members[0]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(member.info.size for member in self.members)

    @property
    def etag(self) -> str:
        """Changes when any of the files does; of a single file it is the etag of that file."""
        if len(self.members) == 1:
            return self.main.info.etag
        lines = sorted(f"{member.path}\n{member.info.size}\n{member.info.etag}" for member in self.members)
        return f"{hashlib.sha256(repr(lines).encode()).hexdigest()[:32]}+{len(lines)}"


def has_many_files(uri: str) -> bool:
    """Tell whether slides of this format are, or may be, several files.

    >>> [has_many_files(uri) for uri in ("s3://bucket/a.svs", "s3://bucket/a.MRXS", "/data/a.dcm")]
    [False, True, True]
    """
    return _suffix(uri).lower() in (*_MRXS, *_KEY_FILES, *DICOM_SUFFIXES)


def slide_stat(uri: str) -> ObjectInfo:
    """Return size and etag of a whole slide: what `objects.stat` returns for a single file."""
    files = slide_files(uri)
    return ObjectInfo(uri, files.size, files.etag)


def slide_files(uri: str) -> SlideFiles:
    """Find all files of a slide, in S3 or on a disk.

    Raises:
        NotFoundError: there is no such slide, or a file that belongs to it is missing.
        InputError: a folder of absurdly many objects, a name that leads out of the slide's folder, a broken key file.
    """
    info = objects.stat(uri)
    suffix = _suffix(uri)
    main = Member(f"slide{suffix}", info)
    others: Iterable[Member] = ()
    if suffix.lower() in _MRXS:
        others = _in_folder(uri, uri[: -len(suffix)])
    elif suffix.lower() in _KEY_FILES:
        others = _named_in(info)
    elif suffix.lower() in DICOM_SUFFIXES:
        others = _series_members(info)
    return SlideFiles((main, *others))


def _suffix(uri: str) -> str:
    """The suffix, where it is an ordinary one."""
    suffix = PurePosixPath(name(uri)).suffix
    return suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,12}", suffix) else ""


def _objects(uri: str, folder: str) -> list[ObjectInfo]:
    infos = list(islice(objects.list_objects(folder), MAX_FILES + 1))
    if len(infos) > MAX_FILES:
        raise InputError(
            f"{uri}: more than {MAX_FILES:,} objects in {folder}/, expected the files of one slide; "
            "give each slide a folder of its own"
        )
    return infos


def _in_folder(uri: str, folder: str) -> list[Member]:
    infos = _objects(uri, folder)
    if not infos:
        raise NotFoundError(f"{uri}: nothing is in {folder}/, where the pixels of an MRXS slide lie; copy it there too")
    prefix = join(folder, "").rstrip("/") + "/"
    inner = [(info.uri.removeprefix(prefix), info) for info in infos]
    folders = {str(above) for path, _ in inner for above in PurePosixPath(path).parents}
    for path, _ in inner:
        if path in folders:
            raise InputError(f"{uri}: {path!r} in {folder}/ is a file and a folder at once, which no disk can hold")
    return [Member(f"slide/{_safe(path, uri)}", info) for path, info in inner]


def _safe(path: str, uri: str) -> str:
    """Return a relative path; refuse one that leads out of its folder, or that is no file name on a disk."""
    for part in path.split("/"):
        if part in ("", ".", "..") or "\\" in part or not part.isprintable() or len(part.encode()) > 255:
            raise InputError(f"{uri}: a file of this slide is called {path!r}, which cannot be the name of a file")
    return path


def _named_in(info: ObjectInfo) -> list[Member]:
    """Return the files that a VMS or VMU names: images of one focal plane, map, macro, restart markers."""
    if info.size > _KEY_FILE_BYTES:
        raise InputError(f"{info.uri}: {info.size} bytes, expected a key file of {_KEY_FILE_BYTES} at most")
    (data,) = objects.read_ranges(info.uri, [(0, info.size)], etag=info.etag)
    keys = _keys(data.decode(errors="replace"), info.uri)
    wanted = dict.fromkeys(value for key, value in keys if value and _is_file_key(key))
    for value in wanted:
        if "/" in value:
            raise InputError(f"{info.uri}: names the file {value!r}, expected one beside it")
        _safe(value, info.uri)
    wanted.pop(name(info.uri), None)
    optional = {value for key, value in keys if key == "OptimisationFile"}
    folder = parent(info.uri)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        infos = pool.map(lambda value: _stat_or_none(join(folder, value)), wanted)
    members = []
    for value, other in zip(wanted, infos, strict=True):
        if other is not None:
            members.append(Member(value, other))
        elif value not in optional:
            raise NotFoundError(f"{info.uri}: names the file {value!r}, which is not beside it; copy it there too")
    return members


def _keys(text: str, uri: str) -> list[tuple[str, str]]:
    """Return keys and values of all groups of a key file: lines of `key=value` under headings in brackets.

    Where a group has a key twice, the last counts. (configparser's time grows with the square of a line's length.)
    """
    values: dict[tuple[str, str], str] = {}
    group = ""
    for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            group = line
        elif group and equals and key.strip():
            values[group, key.strip()] = value.strip()
        else:
            raise InputError(f"{uri}: not a key file: line {number} is {line[:60]!r}, expected [group] or key=value")
    return [(key, value) for (_, key), value in values.items()]


def _is_file_key(key: str) -> bool:
    """Tell whether a key names a file to read; of `ImageFile(z)` and `ImageFile(z,x,y)` only focal plane z = 0 is.

    >>> [_is_file_key(key) for key in ("ImageFile", "ImageFile(1,0)", "ImageFile(1,0,0)", "MapFile", "LayerSpacing")]
    [True, True, False, True, False]
    """
    image = re.fullmatch(r"ImageFile(?:\(([-\d,]*)\))?", key)
    if not image:
        return key in ("MapFile", "MacroImage", "OptimisationFile")
    place = (image[1] or "").split(",")
    return len(place) == 2 or place[0] in ("", "0")


def _stat_or_none(uri: str) -> ObjectInfo | None:
    try:
        return objects.stat(uri)
    except NotFoundError:
        return None


def _series_members(info: ObjectInfo) -> list[Member]:
    """Return the other files of a DICOM series; none for what is no DICOM, which OpenSlide will refuse."""
    uid = series(info)
    if uid is None:
        return []
    folder = parent(info.uri)
    beside = [
        other
        for other in _objects(info.uri, folder)
        if parent(other.uri) == folder and name(other.uri) != name(info.uri)
    ]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        uids = pool.map(series, beside)
        same_series = [other for other, other_uid in zip(beside, uids, strict=True) if other_uid == uid]
    return [Member(f"{number:05}.dcm", other) for number, other in enumerate(same_series, start=1)]
