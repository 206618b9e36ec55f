"""Thumbnails with pen, folds, bubbles, frames and black surroundings, painted on purpose."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.tiles.quality import (
    Flag,
    flag_masks,
)
from uadray.tiles.tissue import tissue_mask

Image = np.ndarray


Artefact = Callable[[Image], tuple[Image, np.ndarray]]


INKS = {
    "blue": (30, 60, 170), "light blue": (60, 120, 210), "navy": (25, 30, 90), "turquoise": (20, 150, 160),
    "green": (20, 130, 70), "dark green": (15, 70, 45), "red": (205, 25, 40), "dark red": (150, 20, 40),
    "black": (25, 25, 28),
}  # fmt: skip


def line(image: Image, width_um: float) -> np.ndarray:
    """A slightly bent stroke over the whole picture at 4 um a pixel."""
    height, width = image.shape[:2]
    x = np.linspace(0, width - 1, 40)
    y = height * (0.45 + 0.1 * x / width + 0.03 * np.sin(x / 40))
    mask = np.zeros((height, width), np.uint8)
    cv2.polylines(mask, [np.stack([x, y], 1).round().astype(np.int32)], False, 1, round(width_um / 4))
    return mask.astype(bool)


def inked(colour: tuple[int, int, int], opacity: float) -> Artefact:
    """Light passes the ink and the tissue: transmissions multiply. Felt leaves a stroke uneven."""

    def draw(image: Image) -> tuple[Image, np.ndarray]:
        mask = line(image, 500)
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.5)
        uneven = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 0.9, mask.shape), (0, 0), 6)
        amount = (soft * opacity * (1 + uneven))[..., None]
        return np.clip(image * (np.array(colour) / 245) ** amount, 0, 255).astype(np.uint8), mask

    return draw


def folded(image: Image, width_um: float) -> tuple[Image, np.ndarray]:
    """Two layers of tissue: the picture times a shifted copy of itself."""
    mask = line(image, width_um)
    double = image.astype(float) * np.roll(image, (9, 14), (0, 1)) / 245
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8)[..., None]
    return (image * (1 - soft) + double * soft).clip(0, 255).astype(np.uint8), mask & tissue_mask(image, 4.0)


def bubbled(image: Image, diameter_um: float) -> tuple[Image, np.ndarray]:
    mask, rim = np.zeros((2, *image.shape[:2]), np.uint8)
    centre, axes = (image.shape[1] // 2, image.shape[0] // 2), (round(diameter_um / 8), round(diameter_um / 9))
    cv2.ellipse(mask, centre, axes, 30, 0, 360, 1, cv2.FILLED)
    cv2.ellipse(rim, centre, axes, 30, 0, 360, 1, 8)
    soft = cv2.GaussianBlur(rim.astype(np.float32), (0, 0), 1)[..., None] * 0.75
    return (image * (1 - soft) + np.array([60, 60, 62]) * soft).astype(np.uint8), mask.astype(bool)


def flagged_shares(image: Image, mpp: float) -> dict[Flag, float]:
    """The share of the tissue that lies under each flag."""
    tissue = tissue_mask(image, mpp)
    size = (tissue.shape[1], tissue.shape[0])
    masks = flag_masks(image, mpp, tissue)
    return {
        flag: float(cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)[tissue].sum())
        / max(1, int(tissue.sum()))
        for flag, mask in masks.items()
    }


def ring(colour: int, radii_px: tuple[int, int], width_px: int, *, centre: tuple[int, int] = (150, 150)) -> Image:
    return cv2.ellipse(np.full((300, 300, 3), 240, np.uint8), centre, radii_px, 20, 0, 360, (colour,) * 3, width_px)


def box(colour: int, inset_px: int, width_px: int) -> Image:
    corners = (inset_px, inset_px), (299 - inset_px, 299 - inset_px)
    return cv2.rectangle(np.full((300, 300, 3), 240, np.uint8), *corners, (colour,) * 3, width_px)


def tilted(image: Image) -> Image:
    turn = cv2.getRotationMatrix2D((150, 150), 25, 0.7)
    return np.asarray(cv2.warpAffine(image, turn, (300, 300), borderValue=(240, 240, 240)), np.uint8)


def filled_ring(image: Image) -> Image:
    """A round piece of tissue with a grey border."""
    image[(image[..., 0] < 100).cumsum(1) * (image[..., 0] < 100)[:, ::-1].cumsum(1)[:, ::-1] > 0] = (200, 90, 150)
    return cv2.ellipse(image, (150, 150), (60, 50), 20, 0, 360, (70,) * 3, 4)


def on_glass(phantom: Image) -> Image:
    image = np.full((400, 400, 3), 242, np.uint8)
    image[100:340, 80:320] = phantom[:240, :240]
    return image


SURROUNDINGS: dict[str, Artefact] = {
    **{f"surround of {value}": lambda image, value=value: cropped(image, value) for value in (0, 30, 90, 150, 200)},
    **{
        f"frame of {width} px, {inset} px inside": lambda image, width=width, inset=inset: cv2.rectangle(
            image.copy(), (inset,) * 2, (399 - inset,) * 2, (0, 0, 0), width
        )
        for width in (1, 5, 12, 40)
        for inset in (0, 2, 25)
    },
    "round field": lambda image: within(image, cv2.circle(np.zeros((400, 400), np.uint8), (200, 215), 195, 1, -1)),
    "round frame": lambda image: cv2.circle(image.copy(), (200, 215), 180, (20, 20, 20), 5),
    "ragged field": lambda image: within(
        image,
        cv2.fillPoly(
            np.zeros((400, 400), np.uint8), [np.array([[5, 50], [200, 5], [390, 90], [350, 395], [20, 380]])], 1
        ),
    ),
    "black up to the tissue": lambda image: cropped(image, 0, np.s_[100:340, 80:320]),
}


def cropped(image: Image, value: int, place: Any = np.s_[30:370, 30:370]) -> Image:
    out = np.full_like(image, value)
    out[place] = image[place]
    return out


def within(image: Image, field: np.ndarray) -> Image:
    return np.where(field[..., None] > 0, image, 0).astype(np.uint8)


def rings_of_pen(kind: str, width_px: int) -> np.ndarray:
    mask = np.zeros((512, 512), np.uint8)
    circles = {
        "closed": [(256, 256, 150, 360)],
        "open": [(256, 256, 150, 300)],
        "double": [(256, 256, 200, 360), (256, 256, 100, 360)],
        "several": [(140, 140, 90, 360), (370, 140, 90, 360), (256, 370, 90, 360)],
        "at the edge": [(20, 256, 150, 360)],
    }
    for x, y, radius, end in circles.get(kind, []):
        cv2.ellipse(mask, (x, y), (radius, round(0.9 * radius)), 0, 0, end, 1, width_px)
    if kind == "square":
        cv2.rectangle(mask, (110, 110), (400, 400), 1, width_px)
    return mask.astype(np.bool_)


def with_lesion(phantom: Image) -> Image:
    image = phantom.copy()
    for x, y in np.random.default_rng(3).normal(256, 40, (900, 2)).astype(int):
        cv2.circle(image, (int(x), int(y)), 3, (90, 60, 150), cv2.FILLED)
    return image


def thumbnails(folder: Path, count: int) -> Iterator[tuple[str, Image, float]]:
    with (folder / "manifest.csv").open(newline="") as file:
        for row in list(csv.DictReader(file))[:count]:
            with open_slide(folder / row["uri"], slide_id=row["slide_id"]) as slide:
                yield row["slide_id"], *thumbnail(slide)
