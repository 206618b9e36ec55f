"""TIFFs of any kind, byte by byte: big-endian, BigTIFF, sub-directories, and headers that lie."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import simplejpeg

ASCII, SHORT, LONG, RATIONAL, LONG8 = 2, 3, 4, 5, 16
_FORMATS = {SHORT: "H", LONG: "I", RATIONAL: "I", LONG8: "Q"}
Value = tuple[int, bytes | Sequence[int]]


@dataclass
class Page:
    """A directory: its tags, tiles as JPEG, and directories below it. `claims` replace what is true of it."""

    tags: dict[int, Value]
    tiles: list[bytes]
    below: list["Page"] = field(default_factory=list)
    claims: dict[int, Value] = field(default_factory=dict)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coloured, and different everywhere; even at the edges of JPEG blocks."""
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 240, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def page(
    image: np.ndarray, *, tile_px: int = 64, reduced: bool = False, subsampling: str = "420", **tags: Value
) -> Page:
    """A directory of JPEG tiles of an image; `t270=(ASCII, b"...")` sets a tag."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % tile_px), (0, -width % tile_px), (0, 0)), mode="edge")
    tiles = [
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(padded[y : y + tile_px, x : x + tile_px]), 85, "RGB", colorsubsampling=subsampling
        )
        for y in range(0, height, tile_px)
        for x in range(0, width, tile_px)
    ]
    own: dict[int, Value] = {
        254: (LONG, [int(reduced)]),
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [8, 8, 8]),
        259: (SHORT, [7]),
        262: (SHORT, [6]),
        277: (SHORT, [3]),
        284: (SHORT, [1]),
        322: (LONG, [tile_px]),
        323: (LONG, [tile_px]),
        530: (SHORT, {"420": [2, 2], "422": [2, 1], "444": [1, 1]}[subsampling]),
    }
    return Page(own | {int(name[1:]): value for name, value in tags.items()}, tiles)


def resolution(mpp: float) -> dict[str, Value]:
    """Tags that say so many micrometres per pixel."""
    ratio = (LONG, [round(10_000_000 / mpp), 1000])
    return {"t282": (RATIONAL, ratio[1]), "t283": (RATIONAL, ratio[1]), "t296": (SHORT, [3])}


def build(pages: Sequence[Page], *, big: bool = False, order: str = "<", circle: bool = False) -> bytes:
    """The file; with `circle` its last directory points to the first."""
    offset = "Q" if big else "I"
    mark = b"II" if order == "<" else b"MM"
    head = mark + (struct.pack(f"{order}HHHQ", 43, 8, 0, 0) if big else struct.pack(f"{order}HI", 42, 0))
    out = bytearray(head)
    link = first_link = len(head) - struct.calcsize(offset)
    for each in pages:
        at, following = _append(out, each, big, order)
        struct.pack_into(f"{order}{offset}", out, link, at)
        link = following
    if circle:
        out[link : link + struct.calcsize(offset)] = out[first_link : first_link + struct.calcsize(offset)]
    return bytes(out)


def _append(out: bytearray, each: Page, big: bool, order: str) -> tuple[int, int]:
    """Append tiles, sub-directories and the directory; where it begins, and where the next one's offset goes."""
    offsets = []
    for tile in each.tiles:
        offsets.append(len(out) if tile else 0)
        out += tile
    kind = LONG8 if big else LONG
    tags = each.tags | {324: (kind, offsets), 325: (kind, [len(tile) for tile in each.tiles])}
    if each.below:
        tags[330] = (kind, [_append(out, lower, big, order)[0] for lower in each.below])
    tags |= each.claims
    inline, entry, count, offset = (8, "HHQ", "Q", "Q") if big else (4, "HHI", "H", "I")
    entries = b""
    for code, (kind, values) in sorted(tags.items()):
        raw = values if isinstance(values, bytes) else struct.pack(f"{order}{len(values)}{_FORMATS[kind]}", *values)
        n = len(values) // 2 if kind == RATIONAL else len(values)
        if code in each.claims and kind == LONG8 and len(values) == 2:  # (count, offset), as claimed
            n, raw = values[0], struct.pack(f"{order}{offset}", values[1])
            kind = LONG8 if big else LONG
        if len(raw) > inline:
            out += b"\0" * (len(out) % 2)
            at = len(out)
            out += raw
            raw = struct.pack(f"{order}{offset}", at)
        entries += struct.pack(f"{order}{entry}", code, kind, n) + raw.ljust(inline, b"\0")
    out += b"\0" * (len(out) % 2)
    begin = len(out)
    out += struct.pack(f"{order}{count}", len(tags)) + entries + struct.pack(f"{order}{offset}", 0)
    return begin, len(out) - struct.calcsize(offset)
