"""What DICOM pictures of a slide have in common: the pixels they are drawn on, and what they say of slide and bundle.

A picture has the pixels of one of the slide's own levels where there is one on which a tile is a few pixels: the total
pixel matrix then is that level's, with the same origin, spacing and orientation, and no viewer can place it in another
way. (Whether the origin of a total pixel matrix is the centre of its first pixel or its corner is read differently by
different software; with pixels as large as tiles this would move a picture by half a tile.) A slide without such a
level gets pixels of its own, a power of two of level-0 pixels each, whose origin is the centre of the first, as in all
of DICOM's image planes (PS3.3, C.7.6.2.1.1).
"""

import copy
import io
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import highdicom
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from uadray import __version__
from uadray.errors import SlideError, UadrayError
from uadray.exports.dicom_source import Level, levels_of, quiet
from uadray.exports.exported_slide import ExportedSlide
from uadray.exports.raster import MAX_PIXELS, Floats, painted, power_of_two

PIXELS_A_TILE = (4, 64)
"""A tile is at least so many pixels wide, so that its edges, which are not whole pixels, are off by an eighth; and at
most so many, since 32-bit numbers are not compressed in DICOM."""

FRAME_PX = 512
"""Side of frames where the slide's own are of no use: larger than 1024 px, or smaller than 64."""

_UIDS = uuid.UUID("0b9f6a37-9a7b-4f0c-8d0d-5c2f5d1f7a66")  # a namespace of our own, for identifiers that repeat
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class Canvas:
    """The pixels of a picture.

    Attributes:
        source: the level that it has the pixels of, or level 0.
        level0: the finest level.
        shape: height and width.
        factor: width and height of a pixel in level-0 pixels.
        is_own: its pixels are none of the slide's levels'.
    """

    source: Level
    level0: Level
    shape: tuple[int, int]
    factor: tuple[float, float]
    is_own: bool

    def scores(self, tiles: pa.Table) -> Floats:
        """The scores of tiles on it, [h, w]; NaN where none is."""
        return painted(tiles, shape=self.shape, pixel_level0_px=self.factor)[0]


def canvas_of(slide: ExportedSlide) -> Canvas:
    """The pixels for a slide's picture. Raises what `levels_of` does, and `unreadable` where there are no tiles."""
    levels = levels_of(slide)
    if not len(slide.tiles):
        raise SlideError(slide.slide_id, "unreadable", "it has no tiles to draw")
    tile_px = float(np.median(slide.tiles["width_level0_px"].to_numpy()))
    return chosen_canvas(levels, tile_px)


def chosen_canvas(levels: Sequence[Level], tile_level0_px: float) -> Canvas:
    """The coarsest level on which a tile is wide enough, or pixels of our own.

    Args:
        levels: of the slide, finest first.
        tile_level0_px: side of a tile.
    """
    finest = levels[0]
    for level in reversed(levels):
        width, height = level.size_px
        factor = (level.spacing_mm[1] / finest.spacing_mm[1], level.spacing_mm[0] / finest.spacing_mm[0])
        is_level = np.allclose(factor, (finest.size_px[0] / width, finest.size_px[1] / height), rtol=0.02)
        is_fitting = PIXELS_A_TILE[0] <= tile_level0_px / max(factor) <= PIXELS_A_TILE[1]
        if is_level and is_fitting and width * height <= MAX_PIXELS:
            return Canvas(level, finest, (height, width), factor, is_own=False)
    downsample = power_of_two(finest.size_px, tile_level0_px)
    shape = (-(-finest.size_px[1] // downsample), -(-finest.size_px[0] // downsample))
    return Canvas(finest, finest, shape, (downsample, downsample), is_own=True)


def image_arguments(canvas: Canvas, slide: ExportedSlide, *, kind: str, number: int) -> dict[str, Any]:
    """What highdicom's classes of images are all given.

    Identifiers follow from the source, the decision and the kind of picture: the same export again is the same object.

    Args:
        canvas: of the picture.
        slide: whose picture it is.
        kind: of picture; part of its identifiers.
        number: of its series.
    """
    source = _completed(canvas.source.header)
    further = [] if canvas.source is canvas.level0 else [_completed(canvas.level0.header)]
    decision = [str(slide.decision.get(name)) for name in ("fingerprint", "calibration_id")]
    names = (str(source.SOPInstanceUID), *decision, slide.name, kind)
    arguments: dict[str, Any] = {
        "source_images": [source], "further_source_images": further, "series_instance_uid": _uid("series", *names),
        "series_number": number, "sop_instance_uid": _uid("instance", *names), "instance_number": 1,
        "manufacturer": "uadray", "manufacturer_model_name": long_string(slide.name or "unknown bundle"),
        "software_versions": f"uadray {__version__}", "tile_pixel_array": True, "tile_size": _frame_size(canvas),
        "device_serial_number": long_string(str(slide.decision.get("calibration_id") or "none")),
    }  # fmt: skip
    return arguments | (_own_pixels(canvas) if canvas.is_own else {})


def algorithm(slide: ExportedSlide) -> highdicom.AlgorithmIdentificationSequence:
    """The bundle as DICOM names an algorithm."""
    return highdicom.AlgorithmIdentificationSequence(
        name=long_string(slide.name or "unknown bundle"), family=codes.DCM.ArtificialIntelligence,
        version=long_string(str(slide.decision.get("calibration_id") or "not known")), source="uadray",
    )  # fmt: skip


@contextmanager
def deriving(slide: ExportedSlide) -> Iterator[None]:
    """Around highdicom's work: what it finds wrong with a source's header is one line, which quotes no value of it.

    Raises:
        SlideError: `unreadable`.
    """
    try:
        with quiet():
            yield
    except UadrayError:
        raise
    except Exception as error:  # whatever highdicom raises, with patients' data in the message
        message = f"nothing can be derived from its DICOM headers ({type(error).__name__})"
        raise SlideError(slide.slide_id, "unreadable", message) from None


def long_string(text: str, most: int = 64) -> str:
    r"""A text as DICOM's LO has it, in the letters that every character set has.

    >>> long_string("Ärzte\\x\n")
    '?rzte?x?'
    """
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)[:most]


def file_bytes(dataset: Dataset) -> bytes:
    """The bytes of a DICOM file."""
    if "PatientOrientation" not in dataset:
        dataset.PatientOrientation = None  # required, and empty where the orientation is that of a slide
    sink = io.BytesIO()
    dataset.save_as(sink, enforce_file_format=True)
    return sink.getvalue()


def _own_pixels(canvas: Canvas) -> dict[str, Any]:
    """Spacing, place and frames of a picture whose pixels are none of the slide's."""
    header, spacing = canvas.source.header, canvas.source.spacing_mm
    pixel_mm = (spacing[0] * canvas.factor[1], spacing[1] * canvas.factor[0])
    measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    thickness = measures.get("SliceThickness")
    position = _moved_origin(header, right_mm=(pixel_mm[1] - spacing[1]) / 2, down_mm=(pixel_mm[0] - spacing[0]) / 2)
    return {
        "pixel_measures": highdicom.PixelMeasuresSequence(
            pixel_spacing=pixel_mm, slice_thickness=None if thickness is None else float(thickness)
        ),
        "plane_positions": [
            highdicom.PlanePositionSequence(
                highdicom.CoordinateSystemNames.SLIDE, image_position=position.tolist(), pixel_matrix_position=(1, 1)
            )
        ],
    }


def _frame_size(canvas: Canvas) -> tuple[int, int]:
    """Height and width of frames: those of the level, if they are of a usual size."""
    header = canvas.source.header
    if not canvas.is_own and all(
        isinstance(side, int) and 64 <= side <= 1024 for side in (header.Rows, header.Columns)
    ):
        return int(header.Rows), int(header.Columns)
    return min(canvas.shape[0], FRAME_PX), min(canvas.shape[1], FRAME_PX)


def _moved_origin(header: Dataset, *, right_mm: float, down_mm: float) -> NDArray[np.float64]:
    """The place of a point that lies so far to the right and down from the first pixel's centre: x, y, z in mm."""
    origin = header.TotalPixelMatrixOriginSequence[0]
    corner = [float(origin.get(f"{axis}OffsetInSlideCoordinateSystem") or 0) for axis in "XYZ"]
    directions = np.array([float(value) for value in header.ImageOrientationSlide]).reshape(2, 3)
    return np.asarray(corner + directions[0] * right_mm + directions[1] * down_mm)


def _completed(header: Dataset) -> Dataset:
    """A header with all attributes that are copied from it: those that may be empty are, where they are missing."""
    completed = copy.copy(header)
    for name in _MAY_BE_EMPTY:
        if name not in completed:
            setattr(completed, name, None)
    if completed.PatientSex not in (None, "", "M", "F", "O"):
        completed.PatientSex = None
    return completed


def _uid(*names: str) -> str:
    return f"2.25.{uuid.uuid5(_UIDS, repr(names)).int}"
