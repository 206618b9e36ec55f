"""What a machine has to have for uadray's work, looked at: used by `uadray doctor`, and on every node of a cluster.

Nothing here needs Ray. Each check returns what was found, and how to mend it; none raises.
"""

import hashlib
import importlib
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import uadray
from uadray.errors import InputError, NotFoundError, UadrayError, UnreachableError
from uadray.storage import objects, s3_boto3, s3_client

STORE_TIMEOUT_S = 20.0
"""For so long a check waits for a store. botocore's own patience with one that drops packets is half a minute."""

GPU_TIMEOUT_S = 60.0

_T = TypeVar("_T")

_GPU = """
import torch
for i in range(torch.cuda.device_count()):
    assert torch.ones(256, device=f"cuda:{i}").sum().item() == 256
print(torch.cuda.device_count(), torch.cuda.get_device_name(0) if torch.cuda.device_count() else "none")
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `required` is False for what only some uses need."""

    what: str
    ok: bool
    message: str
    required: bool = True


@dataclass(frozen=True)
class Marker:
    """A small object in a store, and its content: who reads it there sees the same store as the one who wrote it."""

    uri: str
    content: bytes


def versions() -> dict[str, str]:
    """What has to be equal on every node. The last number of Python's is for Ray to judge, which has a setting."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "Ray": _version("ray"), "uadray": f"{uadray.__version__} ({_code()})"}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _code() -> str:
    """Eight digits that change when any file of uadray does: a version number stays the same for many commits."""
    digest = hashlib.sha256()
    root = Path(uadray.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def same_versions(expected: dict[str, str]) -> Finding:
    """Compare with the machine that a command was started on."""
    found = versions()
    other = [name for name in expected if found[name] != expected[name]]
    if other:
        said = ", ".join(f"{name} {found[name]} here and {expected[name]} on the driver's machine" for name in other)
        return Finding("versions", False, f"{said}; install the same on both")
    return Finding("versions", True, ", ".join(f"{name} {number}" for name, number in found.items()))


def package(name: str, use: str) -> Finding:
    """Whether a package can be imported."""
    try:
        found = getattr(importlib.import_module(name), "__version__", "installed")
    except Exception as error:  # a broken shared library raises almost anything
        return Finding(name, False, f"needed for {use}: {error}; run `pip install uadray` again")
    return Finding(name, True, f"{found}, for {use}")


def cores() -> Finding:
    """Reading and scoring want one each."""
    count = os.cpu_count() or 1
    note = "" if count >= 2 else "; reading and scoring take turns on one: give it two"
    return Finding("processors", count >= 2, f"{count}{note}", required=False)


def shared_memory() -> Finding:
    """Ray's object store lives there."""
    path = Path("/dev/shm")  # noqa: S108
    if not path.exists():
        return Finding("shared memory", True, "not used on this system")
    free = shutil.disk_usage(path).free / 2**30
    fix = "" if free >= 1 else "; start the container with --shm-size=2g, or Ray moves pixels over the disk"
    return Finding("shared memory", free >= 1, f"{free:.1f} GiB free in {path}{fix}", required=False)


def cache_disk() -> Finding:
    """Slides that no reader can read from S3 are copied there."""
    folder = Path(os.environ.get("UADRAY_CACHE") or Path.home())
    where = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(where).free / 2**30
    fix = "" if free >= 5 else "; slides from S3 are copied here: free some, or set UADRAY_CACHE"
    return Finding("cache disk", free >= 5, f"{free:.0f} GiB free at {where}{fix}", required=False)


def weights() -> Finding:
    """Whether the cached weights are what they should be."""
    from uadray.networks import weights as cached

    status = {w.name: str(cached.verify(w.name)) for w in cached.registry()}
    corrupt = [name for name, state in status.items() if state == "corrupt"]
    if corrupt:
        return Finding(
            "weights", False, f"damaged: {', '.join(corrupt)}; run `uadray weights pull {' '.join(corrupt)}`"
        )
    have = [name for name, state in status.items() if state != "missing"]
    return Finding("weights", True, f"in the cache: {', '.join(have) or 'none yet'}; others come when they are needed")


def gpu(*, needed: int = 0) -> Finding:
    """Compute a sum on each GPU, in a process of its own: this one shall not keep a part of the GPU's memory.

    Args:
        needed: how many there have to be.
    """
    import torch

    if not needed and not torch.cuda.is_available():
        return Finding("GPU", True, "none; everything runs on the processors, slower", required=False)
    fix = "check it with nvidia-smi"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _GPU], capture_output=True, text=True, timeout=GPU_TIMEOUT_S, check=True
        )
    except subprocess.TimeoutExpired:
        return Finding("GPU", False, f"computes nothing within {GPU_TIMEOUT_S:.0f} s; {fix}", required=needed > 0)
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())[-200:]
        return Finding("GPU", False, f"cannot be used ({said}); {fix}", required=needed > 0)
    count, _, name = done.stdout.strip().partition(" ")
    if int(count) < needed:
        return Finding("GPU", False, f"{count} found, Ray gives out {needed}; {fix}")
    return Finding("GPU", True, f"{count} x {name}", required=needed > 0)


def credentials(*, timeout_s: float = STORE_TIMEOUT_S) -> Finding:
    """Whether the S3 server takes the credentials. Where neither is set nobody is asked."""

    def ask() -> str:
        connection = s3_client.connect()
        found = connection.credentials
        if found is None and connection.is_amazon:
            return "no credentials found; public buckets are read anonymously"
        if found is None:
            return f"no credentials found for {connection.endpoint}; requests will be anonymous"
        buckets = s3_boto3.visible_buckets()
        seen = "they may not list buckets" if buckets is None else f"they see {buckets} buckets"
        return f"{connection.endpoint} takes the credentials (from {found.method}); {seen}"

    return _asked("S3", ask, timeout_s)


def readable(uris: Sequence[str], *, timeout_s: float = STORE_TIMEOUT_S) -> Finding:
    """Whether objects that will be read are there and may be read."""

    def ask() -> str:
        for uri in uris:
            objects.read_ranges(uri, [(0, min(1, objects.stat(uri).size))], etag=None)
        return f"{len(uris)} objects can be read"

    return _asked("input", ask, timeout_s)


def store(out_uri: str, marker: Marker | None = None, *, timeout_s: float = STORE_TIMEOUT_S) -> Finding:
    """Whether results can be written, read, replaced under a condition and deleted there.

    Args:
        out_uri: the folder.
        marker: what has to be seen there, since another machine wrote it.
        timeout_s: how long to wait for all that.
    """

    def use() -> str:
        if marker is not None and not _is_seen(marker):
            fix = "set the same AWS_ENDPOINT_URL" if objects.is_s3(out_uri) else "mount it on every node, or use s3://"
            raise InputError(f"{out_uri} is another place here than on the driver's machine: {fix}")
        objects.check_conditional_puts(out_uri)
        return f"{out_uri} can be written, read, replaced under a condition and deleted"

    return _asked("output", use, timeout_s)


def _is_seen(marker: Marker) -> bool:
    try:
        return objects.read_bytes(marker.uri, max_bytes=len(marker.content)) == marker.content
    except NotFoundError:
        return False


def _asked(what: str, ask: Callable[[], str], timeout_s: float) -> Finding:
    """What a store's answer means. One that stays away is only known to be needed where somebody has named it."""
    found = within(timeout_s, ask)
    if isinstance(found, str):
        return Finding(what, True, found)
    if isinstance(found, (TimeoutError, UnreachableError)):
        late = f"no answer within {timeout_s:.0f} s; check network, firewall and AWS_ENDPOINT_URL"
        text = str(found) if isinstance(found, UnreachableError) else late
        return Finding(what, False, text, required=what != "S3" or not s3_client.connect().is_amazon)
    return Finding(what, False, str(found) if isinstance(found, UadrayError) else f"{type(found).__name__}: {found}")


def within(seconds: float, function: Callable[[], _T]) -> _T | Exception:
    """What a function returns, or the error it raises; a `TimeoutError` where it takes longer, and is left alone."""
    found: list[_T | Exception] = []

    def call() -> None:
        try:
            found.append(function())
        except Exception as error:  # every error is an answer here
            found.append(error)

    thread = threading.Thread(target=call, daemon=True, name="uadray-check")
    thread.start()
    thread.join(seconds)
    return found[0] if found else TimeoutError(f"not done within {seconds:.0f} s")


def examine_machine(out_uri: str | None = None) -> list[Finding]:
    """Look at this machine; nothing is started, changed or downloaded, but for a small object in `out_uri`."""
    checks: list[Callable[[], Finding]] = [
        partial(package, "ray", "the cluster"),
        partial(package, "torch", "the models"),
        partial(package, "openslide", "reading slides"),
        partial(package, "cv2", "tissue masks"),
        *(cores, shared_memory, cache_disk, gpu, weights, credentials),
    ]
    if out_uri is not None:
        checks.append(partial(store, out_uri))
    return [check() for check in checks]


def examine_node(
    expected: dict[str, str], marker: Marker | None, *, out_uri: str | None, reads: Sequence[str] = (), gpus: int = 0,
    store_timeout_s: float = STORE_TIMEOUT_S,
) -> list[Finding]:  # fmt: skip
    """Look at the node that this runs on.

    Args:
        expected: the versions of the machine that asks.
        marker: what the machine that asks has written into `out_uri`.
        out_uri: where results are to be written; None looks only whether S3 takes the credentials.
        reads: objects that will be read.
        gpus: how many Ray gives out on this node.
        store_timeout_s: how long to wait for a store.
    """
    checks: list[Callable[[], Finding]] = [partial(same_versions, expected), shared_memory, cache_disk, weights]
    if gpus:
        checks.append(partial(gpu, needed=gpus))
    if reads:
        checks.append(partial(readable, reads, timeout_s=store_timeout_s))
    if out_uri is not None:
        checks.append(partial(store, out_uri, marker, timeout_s=store_timeout_s))
    if not reads and out_uri is None:
        checks.append(partial(credentials, timeout_s=store_timeout_s))
    return [check() for check in checks]
