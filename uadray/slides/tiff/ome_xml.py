"""OME-XML, the description of an OME-TIFF -> its images, their names and the size of their pixels.

It is read by expat once from the start to the end, or to the first fault, so that a text that was made to hang its
reader takes no longer than any other text of its length.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from xml.parsers import expat

from uadray.slides.pixel_size import StatedSize, number

MAX_IMAGES = 1000

_MICROMETRES = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "\u00b5m": 1.0, "\u03bcm": 1.0, "um": 1.0, "nm": 1e-3, "pm": 1e-6,
    "\u00c5": 1e-4, "in": 25_400.0, "thou": 25.4,
}  # fmt: skip
_UNCALIBRATED = ("pixel", "reference frame")


@dataclass
class OmeImage:
    """An image of an OME-TIFF.

    Attributes:
        name: given by people; may be empty.
        size: of its pixels; None where it does not say.
        directories: numbers of the directories of the file that hold its planes, counted from 0.
        size_px: width and height; 0 where it does not say.
    """

    name: str
    size: StatedSize | None = None
    directories: set[int] = field(default_factory=set)
    size_px: tuple[int, int] = (0, 0)


def ome_images(description: str) -> list[OmeImage]:
    """The images of a description, in its order, up to the first fault of the XML.

    >>> text = '<OME><Image Name="a"><Pixels PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.25"/>'
    >>> [(image.name, image.size.x, image.size.y) for image in ome_images(text)]
    [('a', 0.25, 0.25)]
    """
    images: list[OmeImage] = []

    def start(tag: str, values: dict[str, str]) -> None:
        tag = tag.rpartition(":")[2]
        if tag == "Image" and len(images) < MAX_IMAGES:
            images.append(OmeImage(values.get("Name", "")))
        elif tag == "Pixels" and images and images[-1].size_px == (0, 0):
            images[-1].size = _size(values)
            images[-1].size_px = (_whole(values.get("SizeX")), _whole(values.get("SizeY")))
        elif tag == "TiffData" and images:
            images[-1].directories.add(_whole(values.get("IFD")))

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = _refuse
    with suppress(expat.ExpatError, _DoctypeError):  # what was read before the fault is used
        parser.Parse(description, True)
    return images


class _DoctypeError(Exception):
    pass


def _refuse(*_: object) -> None:
    raise _DoctypeError  # OME-XML has no doctype, whose entities can be made to grow without bound


def _whole(text: str | None) -> int:
    """A whole number of at most nine digits; 0 for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0


def _size(values: dict[str, str]) -> StatedSize | None:
    """The size of a pixel in micrometres; None where it is not stated or not calibrated."""
    sizes: list[float | str] = []
    for axis in "XY":
        text, unit = values.get(f"PhysicalSize{axis}"), values.get(f"PhysicalSize{axis}Unit", "\u00b5m").strip()
        if text is None or unit in _UNCALIBRATED:
            return None
        value = number(text)
        factor = _MICROMETRES.get(unit)
        sizes.append(
            value if isinstance(value, str) else f"{text.strip()} {unit}" if factor is None else value * factor
        )
    return StatedSize(sizes[0], sizes[1], "its OME-XML (PhysicalSizeX, PhysicalSizeY)")
