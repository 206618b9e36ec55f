"""How far the processes of a screening are, as their heartbeats and the last one's `progress.json` tell.

    drivers/<process>.json   `progress` of a process that lives, or was killed; renewed with each heartbeat
    progress.json            what a process that has ended said last, when and why it ended

    {"at", "started", "slides", "open", "oldest_open", "slides_now", "tiles_now", "stages", "cores", "gpus", "note"}

Whoever asks here has no lease: a process is taken for dead when others have declared it so, when it is one of this
machine that has ended, or when what it said last is older than its lease. For that clocks of two machines are compared,
which is good enough for people and decides nothing.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

from uadray.errors import AccessError, InputError, UnreachableError
from uadray.provenance import now_iso
from uadray.screening.heartbeats import LEASE_S, is_gone
from uadray.screening.leases import REQUESTS
from uadray.storage import objects

PROGRESS = "progress.json"

MAX_BYTES = 64 * 1024
"""The most that is read of a heartbeat."""

MAX_DRIVERS = 1000
"""The most heartbeats that are read."""


class Progress(BaseModel):
    """What a process says of itself.

    Attributes:
        at: when it said so.
        started: when it began.
        slides: of its run, in all.
        open: those that it does not know to be decided; None as long as it has not looked.
        oldest_open: since when it knows of the first of these.
        slides_now: that it has decided itself.
        tiles_now: that it has scored.
        stages: seconds of each part of the work, of all its readers and scorers.
        cores: CPU cores that it may use.
        gpus: likewise.
        note: what it waits for.
        driver: its id.
        ended: when; None of one that has not.
        why: `done`, `stopped` or `failed: ...`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    at: AwareDatetime
    started: AwareDatetime
    slides: NonNegativeInt = 0
    open: NonNegativeInt | None = None
    oldest_open: AwareDatetime | None = None
    slides_now: NonNegativeInt = 0
    tiles_now: NonNegativeInt = 0
    stages: dict[str, NonNegativeFloat] = Field(default={}, max_length=32)
    cores: NonNegativeFloat = 0.0
    gpus: NonNegativeFloat = 0.0
    note: str = Field(default="", max_length=1000)
    driver: str = Field(default="", max_length=100)
    ended: AwareDatetime | None = None
    why: str = Field(default="", max_length=1000)


@dataclass(frozen=True)
class DriverProgress:
    """A process of a screening.

    Attributes:
        driver: its id.
        state: `alive`, `dead` or `ended`.
        lag_s: seconds since it has said something; None where it has not.
        progress: what it said last; None of versions that say nothing.
    """

    driver: str
    state: Literal["alive", "dead", "ended"]
    lag_s: float | None
    progress: Progress | None


def ended(progress: dict[str, Any], driver: str, why: str) -> bytes:
    """What `progress.json` says of a process that ends now."""
    return json.dumps(progress | {"driver": driver, "ended": now_iso(), "why": why[:500]}, indent=1).encode()


def read_progress(out: str, *, now: datetime | None = None) -> list[DriverProgress]:
    """Every process that is at work or was killed, and the one that ended last.

    Args:
        out: the screening's folder.
        now: for tests.

    Raises:
        UadrayError: the store cannot be read.
    """
    now = now or datetime.now(UTC)
    uris = [info.uri for info in objects.list_many(objects.join(out, "drivers"), suffixes=(".json",))][:MAX_DRIVERS]
    uris.append(objects.join(out, PROGRESS))
    with ThreadPoolExecutor(REQUESTS) as pool:
        *beats, last = pool.map(_read, uris)
    drivers = [
        _of_beat(objects.name(uri).removesuffix(".json"), beat, now)
        for uri, beat in zip(uris, beats, strict=False)
        if beat is not None
    ]
    progress = _parsed(last or {})
    if progress is not None and progress.driver not in {each.driver for each in drivers}:
        drivers.append(DriverProgress(progress.driver, "ended", _lag_s(progress, now), progress))
    return drivers


def _of_beat(driver: str, beat: dict[str, Any], now: datetime) -> DriverProgress:
    progress = _parsed(beat.get("progress"))
    lag_s = _lag_s(progress, now)
    lease_s = beat.get("lease_s")
    is_late = lag_s is not None and lag_s > (lease_s if isinstance(lease_s, int | float) else LEASE_S)
    is_dead = bool(beat.get("dead")) or is_late or is_gone(beat)
    return DriverProgress(driver, "dead" if is_dead else "alive", lag_s, progress)


def _lag_s(progress: Progress | None, now: datetime) -> float | None:
    return None if progress is None else max(0.0, (now - progress.at).total_seconds())


def _parsed(values: Any) -> Progress | None:
    """What was said, where it can be understood."""
    try:
        return Progress.model_validate(values)
    except ValidationError:
        return None


def _read(uri: str) -> dict[str, Any] | None:
    """What a file says; None where there is none, or it is no JSON object."""
    try:
        values = json.loads(objects.read_bytes(uri, max_bytes=MAX_BYTES))
    except (AccessError, UnreachableError):
        raise
    except (InputError, ValueError, RecursionError):  # it is gone, or too large
        return None
    return values if isinstance(values, dict) else None
