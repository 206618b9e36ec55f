"""What a DICOM slide says of itself: the headers that what is derived from it must repeat, and the levels to draw on.

No pixel is read. Headers are read from where the slide lies, in ranges, up to the places of frames; the label and the
overview are never chosen. Patients' names go from the source into what is derived from it, as DICOM asks
(PS3.3, C.7.1.1), and nowhere else: pydicom's and highdicom's warnings quote them, and are not shown.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_partial, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from uadray.errors import SlideError, UadrayError
from uadray.exports.exported_slide import ExportedSlide
from uadray.exports.raster import MAX_SIDE_LEVEL0_PX
from uadray.storage import objects
from uadray.storage.dicom_series import DICOM_SUFFIXES
from uadray.storage.slide_files import slide_files
from uadray.storage.uris import ObjectInfo

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of VL Whole Slide Microscopy Images."""

MAX_HEADER_BYTES = 64 * 2**20
"""The most that is read of a file's header."""

_BLOCK_BYTES = 256 * 2**10
_PER_FRAME = 0x52009230  # places of frames; only pixels follow
_NEEDED = (
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns",
    "TotalPixelMatrixColumns", "TotalPixelMatrixRows", "TotalPixelMatrixOriginSequence", "ImageOrientationSlide",
)  # fmt: skip


@dataclass(frozen=True)
class Level:
    """An instance of the series that holds one level of the slide.

    Attributes:
        header: without pixels and without the places of frames.
        size_px: width and height of the total pixel matrix.
        spacing_mm: of its pixels, between rows and between columns.
    """

    header: Dataset
    size_px: tuple[int, int]
    spacing_mm: tuple[float, float]


def levels_of(slide: ExportedSlide) -> tuple[Level, ...]:
    """The levels of a DICOM slide, finest first.

    Raises:
        SlideError: `not_dicom`; `changed`: its files are no longer those that were scored; `unreadable`: headers lack
            what places a picture on the slide, or its level 0 is not the one that was scored.
        UadrayError: the store cannot be read.
    """
    uri = slide.uri
    if not uri:
        raise SlideError(slide.slide_id, "not_dicom", "nothing tells where its file lies; export a screening instead")
    if not uri.lower().endswith(DICOM_SUFFIXES):
        raise SlideError(
            slide.slide_id,
            "not_dicom",
            "is no DICOM slide, and a DICOM picture must name the images that it is derived from; export it as "
            "ome-tiff or dzi",
        )
    files = slide_files(uri)
    if slide.decision.get("etag") not in (None, files.etag, files.main.info.etag):
        raise SlideError(slide.slide_id, "changed", "its files have changed since they were scored; screen it again")
    levels = [level for member in files.members if (level := _level(member.info, slide.slide_id)) is not None]
    levels.sort(key=lambda level: -level.size_px[0] * level.size_px[1])
    if not levels:
        raise SlideError(slide.slide_id, "not_dicom", "none of its DICOM files is a level of a whole slide")
    if slide.size_level0_px not in (None, levels[0].size_px):
        raise SlideError(
            slide.slide_id,
            "unreadable",
            f"its finest level in DICOM is {levels[0].size_px[0]} x {levels[0].size_px[1]} px, and what was scored is "
            f"{slide.size_level0_px}",
        )
    return tuple(levels)


def _level(info: ObjectInfo, slide_id: str) -> Level | None:
    """A level's instance; None for the label, the overview and what else lies in a series."""
    header = read_header(info, slide_id)
    kind = list(header.get("ImageType") or [])
    if header.get("SOPClassUID") != WHOLE_SLIDE or kind[2:3] != ["VOLUME"]:
        return None
    missing = [name for name in _NEEDED if not header.get(name)]
    spacing = _spacing(header)
    if missing or spacing is None:
        what = ", ".join([*missing, *(["PixelSpacing"] if spacing is None else [])])
        raise SlideError(slide_id, "unreadable", f"its DICOM lacks {what}, so that nothing can be placed on it")
    width, height = header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows
    if not all(isinstance(side, int) and 0 < side <= MAX_SIDE_LEVEL0_PX for side in (width, height)):
        raise SlideError(slide_id, "unreadable", "its DICOM claims a size that no slide has")
    return Level(header, (width, height), spacing)


def _spacing(header: Dataset) -> tuple[float, float] | None:
    """Millimetres between rows and between columns; None where it is not stated for all frames together, or absurd."""
    try:
        measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        rows, columns = (float(value) for value in measures.PixelSpacing)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
    return (rows, columns) if 1e-6 < rows < 1 and 1e-6 < columns < 1 else None


def read_header(info: ObjectInfo, slide_id: str) -> Dataset:
    """A file's header, without pixels and without what it says of single frames.

    Raises:
        SlideError: `unreadable`: it is no DICOM, or its header is absurdly long.
        UadrayError: the store cannot be read.
    """
    source: Any = _Bytes(info)
    try:
        with quiet():
            if read_preamble(source, False) is None:
                raise ValueError
            meta = read_dataset(source, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)
            if meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:  # may inflate without bound; no slide has it
                raise ValueError
            source.seek(0)
            header = read_partial(source, stop_when=lambda tag, _vr, _length: tag >= _PER_FRAME)
            for element in header.iterall():
                _ = element.value  # parsed here, so that what is wrong with it shows here
    except UadrayError:
        raise
    except Exception as error:  # pydicom raises whatever its parsing meets, with patients' data in the message
        name = objects.name(info.uri)
        raise SlideError(slide_id, "unreadable", f"{name}: no DICOM header ({type(error).__name__})") from None
    return header


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom and highdicom from showing what they find wrong: they quote names of patients."""
    for library in ("pydicom", "highdicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Bytes:
    """A file whose bytes are read in blocks as they are asked for, as far as `MAX_HEADER_BYTES`."""

    def __init__(self, info: ObjectInfo) -> None:
        self._info, self._place, self._block, self._start, self._n_read = info, 0, b"", 0, 0

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = max(0, offset + (0, self._place, self._info.size)[whence])
        return self._place

    def read(self, size: int = -1) -> bytes:
        stop = self._info.size if size < 0 else min(self._place + size, self._info.size)
        if stop <= self._place:
            return b""
        if not self._start <= self._place <= stop <= self._start + len(self._block):
            end = min(max(stop, self._place + _BLOCK_BYTES), self._info.size)
            self._n_read += end - self._place
            if self._n_read > MAX_HEADER_BYTES:
                raise ValueError
            (self._block,) = objects.read_ranges(self._info.uri, [(self._place, end)], etag=self._info.etag)
            self._start = self._place
        data = self._block[self._place - self._start : stop - self._start]
        self._place = stop
        return data
