"""Slides that arrive in a folder or bucket: each version of each is told once, when it has stopped growing.

    one look    a listing of all that is there, entry by entry; what is kept of a slide between looks is two numbers
    complete    a single file in S3       at once: an object appears whole, also one that is uploaded in parts
                a single file on a disk   sizes and times of all its files are the same at two looks, `settle_s` or more
                MRXS, VMS, VMU, DICOM     apart: wherever they lie, their files come one after the other

A copy that stands still for longer than `settle_s` is taken for complete. It then fails or is screened as it is, and
when it grows on it is told again, as a slide that was replaced.

A slide's id is its path in the folder, with its suffix and with `__` for `/`; of a DICOM series its folder and its
SeriesInstanceUID. It depends on no other file, so that two processes, or one that is started again, give the same.
Where two paths could get the same id, eight hex digits follow.
"""

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from uadray.errors import UnreachableError
from uadray.slides.folder_index import SLIDE_SUFFIXES
from uadray.slides.manifest import SlideRow
from uadray.slides.manifest_checks import why_unusable
from uadray.storage import objects
from uadray.storage.dicom_series import DICOM_SUFFIXES, series
from uadray.storage.slide_files import has_many_files

SETTLE_S = 30.0
"""A slide whose files were the same at two looks so far apart is complete. Scanners and copies write all the time."""

_REQUESTS = 32


@dataclass(frozen=True)
class Arrival:
    """A slide that is complete.

    Attributes:
        row: the slide.
        etag: of its file, as `identity.slide_etag` has it; None where it is several files.
        is_change: another version of it was told before.
    """

    row: SlideRow
    etag: str | None
    is_change: bool


class Arrivals:
    """What has arrived in a folder so far.

    Args:
        uri: the folder.
        settle_s: see above.
        ids: URI -> id, of slides that have an id other than the one that follows from their path.
        clock: seconds.

    Attributes:
        root: the folder's absolute URI, with a slash at its end.
        left_out: how many files of the last look are no slides, by reason.
    """

    def __init__(
        self, uri: str, *, settle_s: float = SETTLE_S, ids: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.root = objects.join(objects.resolve(uri, "."), "").rstrip("/") + "/"
        self.left_out: Counter[str] = Counter()
        self._settle_s, self._ids, self._clock = settle_s, ids or {}, clock
        self._told: dict[int, int] = {}
        self._growing: dict[int, tuple[int, float]] = {}
        self._still_growing: dict[int, tuple[int, float]] = {}

    @property
    def growing(self) -> int:
        """How many slides, or folders of DICOM files, were there at the last look and not yet known to be complete."""
        return len(self._growing)

    def look(self) -> Iterator[Arrival]:
        """List what is there; yields what is complete and was not told before, as it is found.

        Raises:
            UnreachableError: the folder is not there any more, or the store does not answer.
        """
        self.left_out, self._still_growing = Counter(), {}
        folders = _Folders(self.root)
        keys: list[objects.ObjectInfo] = []
        waits = not objects.is_s3(self.root)
        for info in self._listed():
            if not info.uri.lower().endswith(SLIDE_SUFFIXES):
                folders.add(info)
            elif has_many_files(info.uri):
                keys.append(info)
            else:
                yield from self._tell(info.uri, _version([info]), info.etag, waits=waits)
        for info in keys:
            if (version := folders.version_with_others(info)) is not None:
                yield from self._tell(info.uri, version, None, waits=True)
        for folder, version in folders.dicom.items():
            yield from self._tell_series(folder, version)
        self.left_out.update(folders.others)
        self._growing = self._still_growing

    def _listed(self) -> Iterator[objects.ObjectInfo]:
        """All files that are not hidden."""
        if not objects.is_s3(self.root) and not objects.local_path(self.root).is_dir():
            raise UnreachableError(f"{self.root}: the folder is not there")
        for info in objects.list_objects(self.root, left_out=lambda reason, _: self.left_out.update([reason])):
            if any(name.startswith(".") for name in info.uri.removeprefix(self.root).split("/")):
                self.left_out["hidden"] += 1
            else:
                yield info

    def _tell(self, uri: str, version: int, etag: str | None, *, waits: bool, path: str = "") -> Iterator[Arrival]:
        """A slide, if it is complete and this version of it was not told; `path` is other than its file's for DICOM."""
        place = _digest(path or uri)
        if self._told.get(place) == version or (waits and self._is_growing(place, version)):
            return
        slide_id = self._ids.get(uri) or slide_id_of((path or uri).removeprefix(self.root))
        why, is_change = why_unusable(slide_id), place in self._told
        self._told[place] = version
        if why:
            self.left_out[f"its id would {why}"] += 1
        else:
            yield Arrival(SlideRow(slide_id, uri), etag, is_change)

    def _is_growing(self, place: int, version: int) -> bool:
        now = self._clock()
        before, since = self._growing.get(place, (version, now))
        since = since if before == version else now
        if now - since >= self._settle_s:
            return False
        self._still_growing[place] = (version, since)
        return True

    def _tell_series(self, folder: str, version: int) -> Iterator[Arrival]:
        """The series of a folder with DICOM files, once the folder as a whole is complete: headers are read then."""
        place = _digest(folder)
        if self._told.get(place) == version or self._is_growing(place, version):
            return
        infos = [info for info in objects.list_objects(folder, suffixes=DICOM_SUFFIXES) if _is_visible_in(info, folder)]
        if _version(infos) != version:
            return  # it goes on growing
        with ThreadPoolExecutor(_REQUESTS) as pool:
            of_series: dict[str, list[objects.ObjectInfo]] = defaultdict(list)
            for info, uid in zip(infos, pool.map(series, infos), strict=True):
                if uid is None:
                    self.left_out["no DICOM series can be read in it"] += 1
                else:
                    of_series[uid].append(info)
        for uid, files in of_series.items():
            first = min(info.uri for info in files)
            yield from self._tell(first, _version(files), None, waits=False, path=f"{folder}/{uid}")
        self._told[place] = version


class _Folders:
    """What one look finds in each folder besides single files: versions of all files in it, and below it.

    Attributes:
        dicom: folder -> version of the DICOM files in it.
        others: slides of which files are missing, by reason.
    """

    def __init__(self, root: str) -> None:
        self.dicom: defaultdict[str, int] = defaultdict(int)
        self.others: Counter[str] = Counter()
        self._root = root
        self._beside: defaultdict[str, int] = defaultdict(int)
        self._below: defaultdict[str, int] = defaultdict(int)

    def add(self, info: objects.ObjectInfo) -> None:
        """Count a file for its folder and for those above."""
        version, folder = _version([info]), info.uri.rpartition("/")[0]
        if info.uri.lower().endswith(DICOM_SUFFIXES):
            self.dicom[folder] = (self.dicom[folder] + version) % 2**64
            return
        self._beside[folder] = (self._beside[folder] + version) % 2**64
        while len(folder) > len(self._root):
            self._below[folder] = (self._below[folder] + version) % 2**64
            folder = folder.rpartition("/")[0]

    def version_with_others(self, info: objects.ObjectInfo) -> int | None:
        """The version of a slide with its other files: all that is beside it, for MRXS its folder; None without one."""
        name, _, suffix = info.uri.rpartition(".")
        more = self._below.get(name) if suffix.lower() == "mrxs" else self._beside[info.uri.rpartition("/")[0]]
        if more is None:
            self.others["MRXS without its folder"] += 1
            return None
        return (_version([info]) + more) % 2**64


def slide_id_of(path: str) -> str:
    """The id of a slide by its path in the folder.

    >>> slide_id_of("2026/b.svs"), slide_id_of("a__b.svs"), slide_id_of("a/b.svs")
    ('2026__b.svs', 'a__b.svs~64f1d607', 'a__b.svs')
    """
    is_ambiguous = any(text in path for text in ("__", "_/", "/_"))
    return path.replace("/", "__") + (f"~{hashlib.sha256(path.encode()).hexdigest()[:8]}" if is_ambiguous else "")


def _is_visible_in(info: objects.ObjectInfo, folder: str) -> bool:
    return info.uri.rpartition("/")[0] == folder and not objects.name(info.uri).startswith(".")


def _version(infos: Iterable[objects.ObjectInfo]) -> int:
    """A number for the versions of these files, in any order."""
    return sum(_digest(f"{info.uri}\n{info.size}\n{info.etag}") for info in infos) % 2**64


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
