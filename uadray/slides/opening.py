"""URI -> an open slide, whatever its format and wherever it lies: `open_slide`."""

from pathlib import Path

from uadray.errors import ChangedError, InputError, SlideError
from uadray.slides.openslide import OpenSlideSlide
from uadray.slides.pixel_size import level0_mpp
from uadray.slides.slide import Slide
from uadray.slides.tiff.byte_source import open_source, slide_error
from uadray.slides.tiff.index import TiffIndex
from uadray.slides.tiff.opening import index_of, open_tiff
from uadray.slides.tiff.slide import TiffSlide
from uadray.storage import objects
from uadray.storage.slide_files import has_many_files


def open_slide(uri: str | Path, *, slide_id: str, mpp: float | None = None, etag: str | None = None) -> Slide:
    """Open a slide, on a disk or in S3.

    Tiled JPEG, LZW, deflate and uncompressed pixels in TIFF, SVS and OME-TIFF are read here, tile by tile and without a
    copy (`tiff.slide.TiffSlide`). All other formats that OpenSlide knows are read by OpenSlide; an object in S3 from a
    local copy, which is held until the slide is closed. Which image of a TIFF is the slide, its levels and its pixel
    size do not depend on who reads it.

    Args:
        uri: a local path, `file://` or `s3://`.
        slide_id: names the slide in errors and tile ids.
        mpp: micrometres per pixel of level 0; overrides what the file says.
        etag: the version that is meant (`identity.slide_etag`); None takes whichever is there. All pixels are of one
            version.

    Raises:
        SlideError: `missing`, `changed` (not that version), `no_access`, `unreachable`, `unreadable` (no slide, or
            broken), `too_large`, `several_images` (some would not be read), `colours` (they would be read as others);
            or `no_mpp`: neither the file nor `mpp` gives a possible pixel size. It is never guessed.
        FullError: the slide cache has no room for the copy.
    """
    uri = str(uri)
    if not objects.is_s3(uri):
        path = objects.local_path(uri)
        if not path.exists():
            raise SlideError(slide_id, "missing", f"no such file: {path}")
        if not path.is_file():
            raise SlideError(slide_id, "unreadable", f"not a file: {path}")
    index = None
    if not has_many_files(uri):
        slide, index = _tiff(uri, slide_id=slide_id, mpp=mpp, etag=etag)
        if slide is not None:
            return slide
    return OpenSlideSlide.open(uri, slide_id=slide_id, mpp=mpp, etag=etag, index=index)


def _tiff(uri: str, *, slide_id: str, mpp: float | None, etag: str | None) -> tuple[TiffSlide | None, TiffIndex | None]:
    """The slide where its tiles are decoded here, and the index where the file is a TIFF whose index is understood."""
    try:
        source = open_source(uri, etag=etag)
    except (ChangedError, InputError) as error:
        raise slide_error(slide_id, error) from error
    slide = None
    try:
        index = index_of(source, slide_id=slide_id)
        if index is not None and index.decoded:
            size = level0_mpp(index.size, given=mpp, slide_id=slide_id)
            slide = open_tiff(source, index, slide_id=slide_id, mpp=size)
    finally:
        if slide is None:
            source.close()
    return slide, index
