"""S3 as a pyarrow file system: Ray Train keeps checkpoints in it, and Parquet files are read through it.

pyarrow's S3 file system holds keys. Pickled into Ray's object store they could be read there, and the keys of a role
expire within the hour. This one holds no keys: each process connects with the credentials that boto3 finds there and
renews. Paths are `bucket/key`.
"""

import errno
import io
from pathlib import PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import Any, NoReturn

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType, PyFileSystem

from uadray.errors import NotFoundError
from uadray.storage import s3

IN_MEMORY_BYTES = 64 * 2**20
"""A file that is being written is held in memory up to this size; a larger one goes to a temporary file."""


def s3_filesystem() -> PyFileSystem:
    """Return the file system of all buckets. It holds no state and no secret, and may be pickled."""
    return PyFileSystem(Objects())


class Objects(FileSystemHandler):  # type: ignore[misc]  # pyarrow is untyped
    """The methods that pyarrow calls, by `uadray.storage.s3`. A folder exists where the name of an object has it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objects)

    def __hash__(self) -> int:
        return hash(Objects)

    def get_type_name(self) -> str:
        """Return a name for messages."""
        return "uadray-s3"

    def normalize_path(self, path: str) -> str:
        """Return the path without a slash at the end."""
        return path.rstrip("/")

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        """Tell of each path whether it is an object, a folder or nothing."""
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> FileInfo:
        if "/" in path.rstrip("/"):
            try:
                return FileInfo(path, FileType.File, size=s3.stat(_uri(path)).size)
            except NotFoundError:
                pass
        is_folder = any(True for _ in s3.list_objects(_uri(path)))
        return FileInfo(path, FileType.Directory if is_folder else FileType.NotFound)

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        """List the objects and folders in a folder; with `recursive` also those in the folders below it."""
        base = selector.base_dir.rstrip("/")
        infos: dict[str, FileInfo] = {}
        for info in s3.list_objects(_uri(base)):
            path = info.uri.removeprefix("s3://")
            above = [str(p) for p in PurePosixPath(path[len(base) + 1 :]).parents][-2::-1]
            for folder in above if selector.recursive else above[:1]:
                infos[f"{base}/{folder}"] = FileInfo(f"{base}/{folder}", FileType.Directory)
            if selector.recursive or not above:
                infos[path] = FileInfo(path, FileType.File, size=info.size)
        if not infos and not selector.allow_not_found:
            raise FileNotFoundError(errno.ENOENT, f"nothing is in {_uri(base)}")
        return list(infos.values())

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: S3 has no folders."""

    def delete_dir(self, path: str) -> None:
        """Delete all objects in a folder."""
        self.delete_dir_contents(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = True) -> None:
        """Delete all objects in a folder: S3 has no folder that would remain."""
        if not path.strip("/"):
            self.delete_root_dir_contents()
        for info in list(s3.list_objects(_uri(path))):
            s3.delete(info.uri)

    def delete_root_dir_contents(self) -> NoReturn:
        """Refuse to delete all buckets."""
        raise NotImplementedError("all buckets at once are not deleted")

    def delete_file(self, path: str) -> None:
        """Delete an object."""
        s3.delete(_uri(path))

    def move(self, src: str, dest: str) -> NoReturn:
        """Refuse: S3 cannot move objects."""
        raise NotImplementedError(f"objects cannot be moved ({src} to {dest})")

    def copy_file(self, src: str, dest: str) -> None:
        """Read an object and write it to another name."""
        s3.write_bytes(_uri(dest), s3.read_bytes(_uri(src)))

    def open_input_stream(self, path: str) -> pa.PythonFile:
        """Return the same as `open_input_file`."""
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Return an object as a file that is read in ranges."""
        try:
            return pa.PythonFile(_Reader(_uri(path)), mode="r")
        except NotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, str(error)) from error

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        """Return a stream; the object appears, whole, when the stream is closed."""
        return pa.PythonFile(_Writer(_uri(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> NoReturn:
        """Refuse: S3 cannot append."""
        raise NotImplementedError(f"nothing can be appended to {_uri(path)}")


def _uri(path: str) -> str:
    return f"s3://{path.strip('/')}"


class _Reader(io.RawIOBase):
    """One version of an object as a file: every range is read under the condition that the etag is the same."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._info, self._at = s3.stat(uri), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._info.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._info.size - self._at)
        stop = self._at + (left if size is None or size < 0 else min(size, left))
        step = s3.JOIN_MAX_BYTES
        spans = [(start, min(start + step, stop)) for start in range(self._at, stop, step)]
        self._at = stop
        return b"".join(s3.read_ranges(self._info.uri, spans, etag=self._info.etag))


class _Writer:
    """Collects what is written and uploads it when it is closed. Without `close` nothing is uploaded."""

    def __init__(self, uri: str) -> None:
        self._uri, self.closed = uri, False
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - closed below

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        """Do nothing: the object appears when the stream is closed."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            with self._file:
                self._file.seek(0)
                s3.write_file(self._uri, self._file)

    def __del__(self) -> None:
        self._file.close()
