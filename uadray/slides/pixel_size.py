"""The micrometres per pixel that a file or the manifest states, and whether they are possible. Never guessed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from uadray.errors import SlideError

FINEST_MPP, COARSEST_MPP = 0.08, 20.0
"""Possible values. The best objectives resolve 0.2 um, so that no light microscope samples below 0.08 um/px. Above
20 um/px a cell is less than a pixel: such values are resolutions for print (300 per inch are 84.7 um)."""

ANISOTROPY_LIMIT = 0.02
"""The x and y of a scanner differ in the fourth digit; where they differ by 2 % or more, one of them is wrong."""


@dataclass(frozen=True)
class StatedSize:
    """What a file states, whether it is possible or not.

    Attributes:
        x: width of a pixel in micrometres; the file's own text where that is no number.
        y: its height, likewise.
        source: where the file states it.
    """

    x: float | str
    y: float | str
    source: str


def number(text: str) -> float | str:
    """A number, or the text where it is none.

    >>> number(" 0.4990 "), number("0,4990")
    (0.499, '0,4990')
    """
    try:
        value = float(text)
    except ValueError:
        return text.strip()
    return value if math.isfinite(value) else text.strip()


def openslide_size(properties: Mapping[str, str]) -> StatedSize | None:
    """What the file states by OpenSlide, for a format that only OpenSlide understands."""
    x, y = (properties.get(f"openslide.mpp-{axis}") for axis in "xy")
    if x is None or y is None:
        return None
    return StatedSize(number(x), number(y), "the file, as OpenSlide reads it,")


def level0_mpp(stated: StatedSize | None, *, given: float | None, slide_id: str) -> float:
    """Micrometres per pixel of level 0.

    Args:
        stated: by the file.
        given: by the manifest; overrides what the file says.
        slide_id: for errors.

    Raises:
        SlideError: reason `no_mpp`: it is not stated, or is not possible.
    """
    if given is not None:
        if not FINEST_MPP <= given <= COARSEST_MPP:
            raise SlideError(slide_id, "no_mpp", f"the manifest gives {given:g} um/px, {_why(given)}; correct it there")
        return given
    remedy = "give the right value in the manifest's mpp column"
    if stated is None:
        raise SlideError(
            slide_id,
            "no_mpp",
            "the file does not say its micrometres per pixel; give them in the manifest's mpp column",
        )
    x, y = stated.x, stated.y
    if isinstance(x, str) or isinstance(y, str):
        text = next(value for value in (x, y) if isinstance(value, str))
        comma = " (a decimal comma?)" if "," in text else ""
        raise SlideError(
            slide_id, "no_mpp", f"{stated.source} gives {text[:60]!r} as um/px, which is no number{comma}; {remedy}"
        )
    mean = (x + y) / 2
    if not FINEST_MPP <= mean <= COARSEST_MPP:
        raise SlideError(slide_id, "no_mpp", f"{stated.source} gives {_both(x, y)} um/px, {_why(mean)}; {remedy}")
    if abs(x - y) > ANISOTROPY_LIMIT * max(x, y):
        raise SlideError(
            slide_id, "no_mpp", f"{stated.source} gives {x:g} x {y:g} um/px, which cannot be: "
            f"pixels of a scanner are square; {remedy}",
        )  # fmt: skip
    return mean


def _both(x: float, y: float) -> str:
    return f"{x:g}" if x == y else f"{x:g} x {y:g}"


def _why(mpp: float) -> str:
    if mpp > COARSEST_MPP:
        return f"which cannot be: above {COARSEST_MPP:g} um/px no cell is seen (was it a resolution for print?)"
    return f"which cannot be: no light microscope samples below {FINEST_MPP:g} um/px"
