"""The one way to a slide: `open_slide`."""

from pathlib import Path

from uadray.errors import ChangedError, InputError, SlideError
from uadray.slides.openslide import OpenSlideSlide
from uadray.slides.pixel_size import level0_mpp
from uadray.slides.slide import Slide
from uadray.slides.tiff.byte_source import open_source, slide_error
from uadray.slides.tiff.slide import TiffSlide, index_of
from uadray.storage import objects
from uadray.storage.slide_files import has_many_files


def open_slide(where: str | Path, *, slide_id: str, mpp: float | None = None, etag: str | None = None) -> Slide:
    """Open a slide, on a disk or in S3.

    Tiled JPEG, LZW, deflate and uncompressed pixels in TIFF, SVS and OME-TIFF are read here, tile by tile and without a
    copy (`tiff.TiffSlide`); what else OpenSlide knows is read by OpenSlide, of an object in S3 from a copy that is held
    until the slide is closed. Which image of a TIFF is the slide, its levels and its pixel size do not depend on that.

    Args:
        where: a local path, `file://` or `s3://`.
        slide_id: names the slide in errors and tile ids.
        mpp: micrometres per pixel of level 0; wins over what the file says.
        etag: the version that is meant (`members.slide_stat`); None takes what is there. It is one version.

    Raises:
        SlideError: `missing`, `changed` (not that version), `no_access`, `unreachable`, `unreadable` (no slide, or
            broken), `too_large`, `several_images` (some would not be read), `colours` (they would be read as others);
            or `no_mpp`: neither the file nor `mpp` gives a pixel size that can be. It is never guessed.
        FullError: the slide cache has no room for the copy.
    """
    uri = str(where)
    path = None if objects.is_s3(uri) else objects.local_path(uri)
    if path is not None and not path.exists():
        raise SlideError(slide_id, "missing", f"no such file: {path}")
    index = None
    if not has_many_files(uri) and (path is None or path.is_file()):
        try:
            source = open_source(uri, etag=etag)
        except (ChangedError, InputError) as error:
            raise slide_error(slide_id, error) from error
        fast = None
        try:
            index = index_of(source, slide_id=slide_id)
            if index is not None and index.decoded:
                found = level0_mpp(index.size, given=mpp, slide_id=slide_id)
                fast = TiffSlide.open(source, index, slide_id=slide_id, mpp=found)
        finally:
            if fast is None:
                source.close()
        if fast is not None:
            return fast
    return OpenSlideSlide.open(uri, slide_id=slide_id, mpp=mpp, etag=etag, index=index)
