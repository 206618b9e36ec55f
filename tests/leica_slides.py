"""Slides whose level 0 is larger than what was scanned: SCN files as Leica's scanners write them, small."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

_IMAGE = """<image name="{name}"><creationDate>2020-01-01T00:00:00Z</creationDate><device model="SCN400" version="1"/>
<pixels sizeX="{width}" sizeY="{height}"><dimension sizeX="{width}" sizeY="{height}" r="0" ifd="{ifd}"/></pixels>
<view sizeX="{nm[0]}" sizeY="{nm[1]}" offsetX="{at[0]}" offsetY="{at[1]}"/>
<scanSettings><objectiveSettings><objective>{objective}</objective></objectiveSettings>
<illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>
</image>"""

_NM = 1000  # a pixel


def write_leica(path: Path, pixels: npt.NDArray[np.uint8], *, offset: tuple[int, int], canvas: tuple[int, int]) -> Path:
    """Write a slide of 1 um/px whose scanned region, `pixels` [h, w, 3], lies at `offset` on a larger `canvas`."""
    height, width, _ = pixels.shape
    whole, at, size = ([side * _NM for side in sides] for sides in (canvas, offset, (width, height)))
    macro = np.full((96, 64, 3), 200, np.uint8)
    images = [
        _IMAGE.format(name="macro", width=64, height=96, ifd=0, nm=whole, at=(0, 0), objective=0.6),
        _IMAGE.format(name="main", width=width, height=height, ifd=1, nm=size, at=at, objective=10),
    ]
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" sizeX="{whole[0]}" sizeY="{whole[1]}"><barcode>eA==</barcode>{"".join(images)}'
        "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(macro, tile=(64, 64), photometric="rgb", description=xml, metadata=None)
        file.write(pixels, tile=(256, 256), photometric="rgb", metadata=None)
    return path
