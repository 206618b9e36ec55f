"""Which processes of a screening are alive.

    drivers/<process>.json    the heartbeat: replaced every quarter of `lease_s`, deleted when the process ends;
                              `{"dead": true}` once others have declared it dead. `progress` is for those who
                              watch, see `progress_record`

    none --start--> beats <--every quarter of lease_s-- beats --end--> none
                      |
                      |  it has ended (seen on the same machine), or another process has seen
                      |  this very heartbeat unchanged for lease_s: replaced (If-Match)
                      v
                    dead --it lives, and its next beat fails--> beats again, and knows until
                      |                                         its next round (`lease_may_be_lost`)
                      '--any process finishes the screening--> none

An observer counts on its own clock, and only time between looks that succeeded: no two clocks are compared, and neither
an outage of the store nor a pause of the observer makes anybody dead. A process whose `lease_may_be_lost` looks at each
lease again before it writes.
"""

import hashlib
import json
import logging
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from uadray.errors import UadrayError
from uadray.screening.leases import REQUESTS, ClaimOwner, heartbeat_uri, read_version, read_with_etag
from uadray.storage import objects

log = logging.getLogger(__name__)

LEASE_S = 60.0
"""A process that was not seen to beat for so long is dead. A restart of the store takes less."""


def dead_marker(facts: dict[str, Any]) -> bytes:
    """What stands in the place of the heartbeat of a process that is declared dead; what it said last is kept."""
    return json.dumps({"dead": True} | ({"progress": facts["progress"]} if "progress" in facts else {})).encode()


@dataclass
class _Watch:
    """What is known of another process: its last heartbeat, and for how long it was seen unchanged."""

    etag: str
    looked_at: float
    facts: dict[str, Any]
    lease_s: float
    dead: bool
    unchanged_s: float = 0.0


class ScreeningProcess:
    """This process's heartbeat in a screening's folder, and what it sees of those of others. A context manager.

    Attributes:
        id: never used again by anybody.
        lease_s: seconds without a beat after which others take this process for dead; its heartbeat says how many.
        poll_s: seconds between looks while it waits for others.
        describe: what its heartbeat says of its progress; called by another thread.
    """

    def __init__(self, out: str, *, lease_s: float = LEASE_S) -> None:
        self.out, self.lease_s, self.poll_s = out, lease_s, lease_s / 6
        self.id = secrets.token_hex(6)
        self.describe: Callable[[], dict[str, Any]] = dict
        self._uri, self._facts = heartbeat_uri(out, self.id), {"driver": self.id, "lease_s": lease_s, **_this_process()}
        self._etag, self._beats, self._confirmed, self._declared_dead, self._round = "", 0, _clock(), False, 0
        self._watched: dict[str, _Watch] = {}
        self._leases: dict[str, tuple[str, str]] = {}  # slide -> (etag, process) of its lease
        self._looking, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="uadray-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._join()
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End: whatever this process still holds is free from now on."""
        self._ended.set()
        self._thread.join()
        self.leave()

    def leave(self) -> None:
        """Delete the heartbeat."""
        with suppress(UadrayError):  # the others will declare it dead
            objects.delete(self._uri)

    def begin_round(self, *, has_listed: bool = False) -> ClaimOwner:
        """Begin a new round of work; returns in whose name its slides are claimed, see `ClaimOwner`."""
        self._round += 1
        self._declared_dead = False
        return ClaimOwner(self.out, self.id, self._round, has_listed)

    @property
    def lease_may_be_lost(self) -> bool:
        """Whether others may have taken this process for dead since its round began; then every lease is looked at."""
        return self._declared_dead or _clock() - self._confirmed > self.lease_s

    @property
    def alone(self) -> bool:
        """Whether no other process was alive at the last look."""
        return all(watch.dead for watch in self._watched.values())

    def is_first_for(self, slide_id: str) -> bool:
        """Whether this process is to try a slide first, of those alive at the last look: one of them is."""
        alive = [self.id, *(name for name, watch in self._watched.copy().items() if not watch.dead)]
        return self.id == max(alive, key=lambda name: hashlib.blake2b(f"{name} {slide_id}".encode()).digest())

    def beat(self) -> None:
        """Renew the heartbeat; where others have declared this process dead, take note and join them again."""
        began = _clock()
        if objects.replace_if_match(self._uri, self._body(), self._etag):
            self._etag, self._confirmed = objects.stat(self._uri).etag, began
            return
        beat_there = read_with_etag(self._uri)
        if beat_there is not None and beat_there[1].get("driver") == self.id:
            self._etag, self._confirmed = beat_there[0], began  # an earlier beat whose answer got lost
            return
        self._declared_dead = True
        log.warning("this driver stood still for longer than %.0f s; others may have taken its slides", self.lease_s)
        if beat_there is None:
            self._join()
        else:
            self._etag = beat_there[0]  # of the mark
            self.beat()

    def look(self) -> set[str]:
        """Look at the other processes and mark the dead; returns those alive, this one among them."""
        with self._looking:
            listed = {
                objects.name(info.uri).removesuffix(".json"): info
                for info in objects.list_many(objects.join(self.out, "drivers"), suffixes=(".json",))
            }
            listed.pop(self.id, None)
            self._watched = {name: self._watch(name, info) for name, info in listed.items()}
            for name, watch in self._watched.items():
                if not watch.dead and (watch.unchanged_s >= watch.lease_s or is_gone(watch.facts)):
                    watch.dead = objects.replace_if_match(listed[name].uri, dead_marker(watch.facts), watch.etag)
            return {self.id, *(name for name, watch in self._watched.items() if not watch.dead)}

    def others(self) -> dict[str, tuple[str, bool]]:
        """Of the other processes that lived at the last look: etag of the heartbeat, and whether it runs right here."""
        alive = {name: watch for name, watch in self._watched.items() if not watch.dead}
        return {name: (watch.etag, _is_here(watch.facts)) for name, watch in alive.items()}

    def free(self, slide_ids: Sequence[str]) -> set[str]:
        """Those of `slide_ids` that no living process holds: decided, given up, or left by a dead one."""
        leases = {
            objects.name(info.uri).removesuffix(".json"): info
            for info in objects.list_many(objects.join(self.out, "leases"), suffixes=(".json",))
        }
        alive = self.look() - {self.id}
        mine = set(slide_ids) & leases.keys()
        new = [leases[i] for i in mine if self._leases.get(i, ("",))[0] != leases[i].etag]
        with ThreadPoolExecutor(REQUESTS) as pool:
            for info, data in zip(new, pool.map(read_version, new), strict=True):
                holder = "" if data is None else json.loads(data)["driver"]
                self._leases[objects.name(info.uri).removesuffix(".json")] = (info.etag, holder)
        self._leases = {i: self._leases[i] for i in mine}
        return {i for i in slide_ids if i not in leases or self._leases[i][1] not in alive}

    def delete_stale(self, decided: Collection[str]) -> bool:
        """Delete what others have left, and our leases beside decisions, where none of the others lives; tells whether.

        Args:
            decided: slides whose decisions were listed before this call: whoever starts after it lists them too.
        """
        if self.look() != {self.id}:
            return False
        leases = objects.list_many(objects.join(self.out, "leases"), suffixes=(".json",))
        objects.delete_all(info.uri for info in leases if objects.name(info.uri).removesuffix(".json") in decided)
        objects.delete_all(heartbeat_uri(self.out, name) for name in self._watched)
        return True

    def pause(self) -> None:
        """Wait before the next look; no two processes in step."""
        time.sleep(self.poll_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret

    def _watch(self, process_id: str, info: objects.ObjectInfo) -> _Watch:
        """What is known of a process after this look."""
        now, watch = _clock(), self._watched.get(process_id)
        if watch is None or watch.etag != info.etag:
            facts = json.loads(read_version(info) or b"{}")
            return _Watch(
                info.etag, now, facts, lease_s=float(facts.get("lease_s", self.lease_s)), dead="dead" in facts
            )
        watch.unchanged_s += min(now - watch.looked_at, watch.lease_s / 2)
        watch.looked_at = now
        return watch

    def _join(self) -> None:
        began = _clock()
        objects.put_if_absent(self._uri, self._body())
        self._etag, self._confirmed = objects.stat(self._uri).etag, began

    def _body(self) -> bytes:
        self._beats += 1
        return json.dumps(self._facts | {"beat": self._beats} | self._progress()).encode()

    def _progress(self) -> dict[str, Any]:
        try:
            progress = self.describe()
        except Exception as error:  # a beat matters more
            log.warning("this driver cannot say how far it is: %s", error)
            return {}
        return {"progress": progress} if progress else {}

    def _run(self) -> None:
        while not self._ended.wait(self.lease_s / 4):
            for duty in (self.beat, self.look):
                try:
                    duty()
                except Exception as error:  # the store may be away; the next beat may reach it
                    log.warning("heartbeat: %s", error)


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _this_process() -> dict[str, Any]:
    facts: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
    return facts | {"machine": _machine(), "born": _born(os.getpid())}


def _machine() -> str | None:
    """This boot of this machine, and the process table that we see of it; None where the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    return None


def _born(pid: int) -> str | None:
    """When a process began, in ticks since boot; None where there is none (a zombie is none)."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    return None


def _is_here(facts: dict[str, Any]) -> bool:
    """Whether what a heartbeat tells of is a process of this very machine that has not ended."""
    here = _machine()
    return here is not None and facts.get("machine") == here and not is_gone(facts)


def is_gone(facts: dict[str, Any]) -> bool:
    """Whether what a heartbeat tells of is a process of this very machine that has ended."""
    here, pid = _machine(), facts.get("pid")
    is_ours = here is not None and facts.get("machine") == here and isinstance(pid, int)
    return is_ours and _born(int(facts["pid"])) != facts.get("born")
