"""Names of further files inside a slide's file: OpenSlide would follow one that leads out of the slide's folder.

Formats of several files name the others. OpenSlide joins such a name to the folder as it stands, `../` and all, and
tells a key file of Hamamatsu's by its content, whatever it is called.
"""

import re
from pathlib import Path

from uadray.errors import InputError

_KEY_FILE_BYTES = 64 * 2**10
_SLIDEDAT_BYTES = 2**20
"""More of either OpenSlide does not read."""

_TIFF = (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+")
_KEY_FILE = re.compile(rb"^\s*\[(?:Uncompressed )?Virtual Microscope Specimen\]", re.M)
_KEY_FILE_NAMES = re.compile(rb"^\s*(?:ImageFile[^=]*|MapFile|MacroImage|OptimisationFile)\s*=(?P<name>.*)$", re.M)
_SLIDEDAT_NAMES = re.compile(rb"^\s*(?:INDEXFILE|FILE_\d+)\s*=(?P<name>.*)$", re.M)


def check_file_names(path: Path) -> None:
    """Refuse a slide that names files elsewhere.

    Args:
        path: of the file that OpenSlide is to open.

    Raises:
        InputError: it names one with a `/`, or is a key file by another name: what it names was not copied then.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        slidedat = path.with_suffix("") / "Slidedat.ini"
        if slidedat.is_file():
            _check(_start(slidedat, _SLIDEDAT_BYTES), _SLIDEDAT_NAMES)
        return
    start = _start(path, _KEY_FILE_BYTES)
    if start[:4] in _TIFF or not _KEY_FILE.search(start):
        return
    if suffix not in (".vms", ".vmu"):
        raise InputError("a key file of a slide of several files; its name must end with .vms or .vmu")
    _check(start, _KEY_FILE_NAMES)


def _start(path: Path, n_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(n_bytes)


def _check(text: bytes, names: re.Pattern[bytes]) -> None:
    """Refuse a name with a slash; `re.M` takes a carriage return for no end of a line, as glib does."""
    for match in names.finditer(text):
        if b"/" in match["name"] or match["name"].strip() == b"..":
            told = match["name"].strip()[:80].decode("utf-8", "replace")
            raise InputError(f"names the file {told!r}, expected one beside it")
