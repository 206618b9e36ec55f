"""`uadray doctor`: what works here, what is missing, how to fix it."""

import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `required` is False for what only some uses need."""

    what: str
    ok: bool
    message: str
    required: bool = True


def examine() -> list[Finding]:
    """Look at everything; nothing is started, changed or downloaded."""
    checks: tuple[Callable[[], Finding], ...] = (
        lambda: _package("ray", "the cluster"),
        lambda: _package("torch", "the models"),
        lambda: _package("openslide", "reading slides"),
        lambda: _package("cv2", "tissue masks"),
        _cores,
        _shared_memory,
        _disk,
        _gpu,
        _weights,
        _credentials,
    )
    return [check() for check in checks]


def _package(name: str, use: str) -> Finding:
    try:
        version = getattr(importlib.import_module(name), "__version__", "installed")
    except Exception as error:  # a broken shared library raises almost anything
        return Finding(name, False, f"needed for {use}: {error}; run `pip install uadray` again")
    return Finding(name, True, f"{version}, for {use}")


def _cores() -> Finding:
    count = os.cpu_count() or 1
    note = "" if count >= 2 else "; reading and scoring take turns on one: give it two"
    return Finding("processors", count >= 2, f"{count}{note}", required=False)


def _shared_memory() -> Finding:
    path = Path("/dev/shm")  # noqa: S108 - Ray's object store lives there
    if not path.exists():
        return Finding("shared memory", True, "not used on this system")
    free = shutil.disk_usage(path).free / 2**30
    fix = "" if free >= 1 else "; start the container with --shm-size=2g, or Ray moves pixels over the disk"
    return Finding("shared memory", free >= 1, f"{free:.1f} GiB free in {path}{fix}", required=False)


def _disk() -> Finding:
    folder = Path(os.environ.get("UADRAY_CACHE") or Path.home())
    where = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(where).free / 2**30
    fix = "" if free >= 5 else "; slides from S3 are copied here: free some, or set UADRAY_CACHE"
    return Finding("cache disk", free >= 5, f"{free:.0f} GiB free at {where}{fix}", required=False)


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", True, torch.cuda.get_device_name(0), required=False)
    return Finding("GPU", True, "none; everything runs on the processors, slower", required=False)


def _weights() -> Finding:
    from uadray.models import weights

    status = {w.name: str(weights.verify(w.name)) for w in weights.registry()}
    corrupt = [name for name, state in status.items() if state == "corrupt"]
    if corrupt:
        return Finding(
            "weights", False, f"damaged: {', '.join(corrupt)}; run `uadray weights pull {' '.join(corrupt)}`"
        )
    have = [name for name, state in status.items() if state != "missing"]
    return Finding("weights", True, f"in the cache: {', '.join(have) or 'none yet'}; others come when they are needed")


def _credentials() -> Finding:
    import botocore.session

    found = botocore.session.get_session().get_credentials()
    if found is None:
        return Finding("S3 credentials", True, "none found; public buckets are read anonymously", required=False)
    return Finding("S3 credentials", True, f"found ({found.method})", required=False)
