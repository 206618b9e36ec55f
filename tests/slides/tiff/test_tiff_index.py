"""The index of a TIFF: its levels as tifffile has them, and what is left to OpenSlide."""

from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile
from slides.tiff_files import ASCII, LONG, SHORT, page, picture
from slides.tiff_twins import MPP, open_fast, write_tiff

from uadray.slides.tiff.byte_source import open_source
from uadray.slides.tiff.index import read_index


def test_a_tiled_macro_image_is_never_a_level(tmp_path: Path) -> None:
    """OpenSlide would call it one: macro images show labels."""
    pages = [page(picture(100, 140), **MPP), page(picture(50, 70), reduced=True), page(picture(30, 60), reduced=True)]
    with open_fast(write_tiff(tmp_path / "s.tif", pages)) as slide:
        assert slide.level_sizes_px == ((140, 100), (70, 50))


@pytest.mark.parametrize(
    "sign",
    [
        {"t65420": (LONG, [1])},
        {"t65000": (ASCII, b"<Argos.Scan.Metadata/>\0")},
        {"t700": (ASCII, b"<EncodeInfo><SlideInfo><iScan/></SlideInfo></EncodeInfo>\0")},
        {"t305": (ASCII, b"Philips DP v1.0\0")},
        {"t305": (ASCII, b"MedScan\0")},
        {"t271": (ASCII, b"Huron\0")},
        {"t270": (ASCII, b'<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"/>\0')},
        {"t259": (SHORT, [33003])},
        {"t277": (SHORT, [1])},
        {"t284": (SHORT, [2])},
        {"t258": (SHORT, [16, 16, 16])},
    ],
)
def test_what_only_openslide_understands_is_left_to_it(tmp_path: Path, sign: dict[str, object]) -> None:
    path = write_tiff(tmp_path / "s.tif", [page(picture(64, 64), **MPP | sign)])  # type: ignore[arg-type]
    source = open_source(str(path))
    index = read_index(source)
    source.close()
    assert index is None or not index.decoded


def test_ome_tiff_with_levels_in_subifds(tmp_path: Path) -> None:
    """The judge is tifffile: OpenSlide sees the first level alone. Further images (label, macro) are no levels."""
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="200" SizeY="120" SizeC="3" SizeZ="1" '
        'SizeT="1" PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.25" PhysicalSizeYUnit="&#181;m">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image>'
        '<Image ID="Image:1" Name="macro image"><Pixels ID="Pixels:1" DimensionOrder="XYCZT" Type="uint8" SizeX="90" '
        'SizeY="40" SizeC="3" SizeZ="1" SizeT="1"><Channel ID="Channel:1:0" SamplesPerPixel="3"/>'
        '<TiffData IFD="1" PlaneCount="1"/></Pixels></Image></OME>'
    )
    images = [picture(120, 200), picture(60, 100), picture(30, 50)]
    top = page(images[0], t270=(ASCII, text.encode() + b"\0"))
    top.below = [page(image, reduced=True) for image in images[1:]]
    path = write_tiff(tmp_path / "s.ome.tif", [top, page(picture(40, 90))], big=True)
    with tifffile.TiffFile(path) as file, open_fast(path) as slide:
        levels = file.series[0].levels
        assert file.is_ome
        assert slide.level_sizes_px == tuple((level.shape[1], level.shape[0]) for level in levels)
        assert slide.downsamples == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
        assert slide.mpp == pytest.approx(0.25)
        data = path.read_bytes()
        for level, image in enumerate(images):
            found = levels[level].pages[0]
            offset, count = found.dataoffsets[0], found.databytecounts[0]
            expected = simplejpeg.decode_jpeg(data[offset : offset + count])
            height, width = min(64, image.shape[0]), min(64, image.shape[1])
            np.testing.assert_array_equal(slide.read_region(level, 0, 0, width, height), expected[:height, :width])
            assert np.abs(slide.read_region(level, 0, 0, *image.shape[1::-1]).astype(int) - image).mean() < 6


def test_the_index_is_tifffiles(data_dir: Path) -> None:
    path = data_dir / "wsi" / "CMU-1-Small-Region.svs"
    source = open_source(str(path))
    index = read_index(source)
    source.close()
    assert index is not None
    with tifffile.TiffFile(path) as file:
        assert index.levels[0].offsets.tolist() == list(file.pages[0].dataoffsets)
        assert index.levels[0].lengths.tolist() == list(file.pages[0].databytecounts)
        assert index.levels[0].tables == file.pages[0].jpegtables
