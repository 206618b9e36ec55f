"""What a machine has to have for uadray's work: packages, memory, disk, weights, GPUs, and equal versions.

None of this needs Ray. Each check returns a finding; none raises.
"""

import hashlib
import importlib
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import uadray
from uadray.cluster.finding import Finding

GPU_TIMEOUT_S = 60.0

_GPU = """
import torch
for i in range(torch.cuda.device_count()):
    assert torch.ones(256, device=f"cuda:{i}").sum().item() == 256
print(torch.cuda.device_count(), torch.cuda.get_device_name(0) if torch.cuda.device_count() else "none")
"""


def versions() -> dict[str, str]:
    """Versions that have to be equal on every node. The last number of Python's is left to Ray's setting."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "Ray": _version("ray"), "uadray": f"{uadray.__version__} ({_code()})"}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _code() -> str:
    """Eight digits of a hash of uadray's files: the version number stays the same for many commits."""
    digest = hashlib.sha256()
    root = Path(uadray.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def same_versions(expected: dict[str, str]) -> Finding:
    """Whether this machine has the versions of the one that a command was typed on."""
    here = versions()
    differing = [name for name in expected if here[name] != expected[name]]
    if differing:
        said = ", ".join(f"{name} {here[name]} here and {expected[name]} on the driver's machine" for name in differing)
        return Finding("versions", False, f"{said}; install the same on both")
    return Finding("versions", True, ", ".join(f"{name} {number}" for name, number in here.items()))


def package(name: str, use: str) -> Finding:
    """Whether a package can be imported."""
    try:
        number = getattr(importlib.import_module(name), "__version__", "installed")
    except Exception as error:  # a broken shared library raises almost anything
        return Finding(name, False, f"needed for {use}: {error}; run `pip install uadray` again")
    return Finding(name, True, f"{number}, for {use}")


def cores() -> Finding:
    """Whether there are two processors: one to read, one to score."""
    count = os.cpu_count() or 1
    note = "" if count >= 2 else "; reading and scoring take turns on one: give it two"
    return Finding("processors", count >= 2, f"{count}{note}", required=False)


def shared_memory() -> Finding:
    """Whether Ray's object store has room in shared memory."""
    path = Path("/dev/shm")  # noqa: S108
    if not path.exists():
        return Finding("shared memory", True, "not used on this system")
    free = shutil.disk_usage(path).free / 2**30
    fix = "" if free >= 1 else "; start the container with --shm-size=2g, or Ray moves pixels over the disk"
    return Finding("shared memory", free >= 1, f"{free:.1f} GiB free in {path}{fix}", required=False)


def cache_disk() -> Finding:
    """Whether there is room to copy slides that cannot be read from S3 in ranges."""
    folder = Path(os.environ.get("UADRAY_CACHE") or Path.home())
    existing = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(existing).free / 2**30
    fix = "" if free >= 5 else "; slides from S3 are copied here: free some, or set UADRAY_CACHE"
    return Finding("cache disk", free >= 5, f"{free:.0f} GiB free at {existing}{fix}", required=False)


def weights() -> Finding:
    """Whether the cached weights have the checksums they should have."""
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
    """Whether each GPU computes a sum. Another process does it, so that this one takes no memory of the GPU.

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
