"""Tile sets of image files, in a folder or a zip: their names, and their bytes.

A file that cannot be read, or is larger than any tile, has no bytes: it is one tile's error, and the others are read.
"""

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from uadray.errors import AccessError, InputError, UnreachableError
from uadray.storage import local_copies, objects
from uadray.tilesets.in_order import in_order

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
MAX_IMAGE_BYTES = 64 * 2**20
"""A file larger than this is no tile; in a zip it may be one that unpacks to fill the memory."""


def folder_images(uri: str) -> list[tuple[str, str]]:
    """The images below a folder: the path of each within it, and its URI."""
    prefix = len(objects.join(uri, "x")) - 1
    return [(image.uri[prefix:], image.uri) for image in objects.list_objects(uri, suffixes=IMAGE_SUFFIXES)]


def zip_images(uri: str) -> list[str]:
    """The paths of the images in a zip.

    Raises:
        InputError: there is no such file, or it is not a zip.
    """
    with _zip(uri) as archive:
        return [name for name in archive.namelist() if name.lower().endswith(IMAGE_SUFFIXES)]


def read_folder(uri: str, image_uris: Iterable[str]) -> Iterator[bytes]:
    """The bytes of images below a folder, in order; empty for one that is too large, or gone since it was listed.

    Raises:
        AccessError: the store refuses us.
        UnreachableError: the store does not answer.
    """
    return in_order(_image_bytes, image_uris, uri=uri)


def read_zip(uri: str, names: Iterable[str]) -> Iterator[bytes]:
    """The bytes of images in a zip, in order; empty for one that is too large, damaged or encrypted.

    Raises:
        InputError: there is no such file, or it is not a zip.
    """
    with _zip(uri) as archive:
        for name in names:
            yield _member(archive, name)


def _image_bytes(uri: str) -> bytes:
    try:
        return objects.read_bytes(uri, max_bytes=MAX_IMAGE_BYTES)
    except (AccessError, UnreachableError):
        raise
    except InputError:
        return b""


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return b"" if archive.getinfo(name).file_size > MAX_IMAGE_BYTES else archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):
        return b""


@contextmanager
def _zip(uri: str) -> Iterator[zipfile.ZipFile]:
    """An open zip; of one in S3, this node's copy, which is fetched once."""
    if not objects.exists(uri):
        raise InputError(f"tile set {uri}: no such file")
    with local_copies.local_copy(uri) as path:
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise InputError(f"tile set {uri}: not a zip file: {error}") from error
        with archive:
            yield archive
