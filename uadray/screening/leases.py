"""Who is at work on which slide, so that any number of drivers share one archive and none does another's slide.

    leases/<slide_id>.json    {"driver", "tenure"}: whose slide this is; there while the slide is being screened

A slide is claimed by its reader when it starts, by a put where nothing is; it stays so for as long as its driver lives
(see `heartbeats`). What is renewed is the driver, not its leases: a few small requests a minute, however many
slides it holds.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from uadray.errors import ChangedError, NotFoundError
from uadray.storage import objects

REQUESTS = 32
"""Small requests in flight."""

Outcome = Literal["ours", "held", "decided"]
NOT_OURS = ("held", "decided")
"""What `claim` says of a slide that another driver is at, or has done."""


@dataclass(frozen=True)
class ClaimOwner:
    """In whose name slides are claimed: a driver's round of work on a screening. Travels to the readers."""

    out: str
    driver: str
    round: int

    @property
    def id(self) -> str:
        """Stands in every lease and every decision that was made under it."""
        return f"{self.driver}.{self.round}"

    @property
    def lease(self) -> bytes:
        """The content of its leases."""
        return json.dumps({"driver": self.driver, "tenure": self.id}).encode()


def lease_uri(out: str, slide_id: str) -> str:
    """Where a slide's lease is."""
    return objects.join(out, "leases", f"{slide_id}.json")


def decision_uri(out: str, slide_id: str) -> str:
    """Where a slide's decision is."""
    return objects.join(out, "decisions", f"{slide_id}.json")


def claim(owner: ClaimOwner, slide_id: str, *, replaces: str | None = None) -> Outcome:
    """Take a slide, unless a living driver has it or a decision exists. Asked again, it gives the same answer.

    Args:
        owner: in whose name.
        slide_id: the slide.
        replaces: etag of a decision that is to be made anew.
    """
    where, before = lease_uri(owner.out, slide_id), None
    if not objects.put_if_absent(where, owner.lease):
        before = take_over(owner, where)
        if before is None:
            return "held"
    if not _is_settled(decision_uri(owner.out, slide_id), before, replaces):
        return "ours"
    objects.delete(where)
    return "decided"


def holds(owner: ClaimOwner, slide_id: str) -> bool:
    """Whether the slide is still ours."""
    try:
        return objects.read_bytes(lease_uri(owner.out, slide_id)) == owner.lease
    except NotFoundError:
        return False


def release(owner: ClaimOwner, slide_id: str) -> None:
    """Give up the lease of a slide that is ours."""
    objects.delete(lease_uri(owner.out, slide_id))


def take_over(owner: ClaimOwner, where: str) -> dict[str, Any] | None:
    """The lease in whose place ours stands now; None where its driver is alive."""
    there = read_with_etag(where)
    if there is None:
        return None  # given up this very moment: to be looked at again
    etag, lease = there
    if lease["tenure"] == owner.id:
        return lease  # the reader runs for the second time
    if lease["driver"] != owner.driver:
        heartbeat = read_with_etag(driver_uri(owner.out, lease["driver"]))
        if heartbeat is not None and not heartbeat[1].get("dead"):
            return None
    return lease if objects.replace_if_match(where, owner.lease, etag) else None


def read_version(info: objects.ObjectInfo) -> bytes | None:
    """Read the very version that was listed; None where there is another or none by now."""
    try:
        return objects.read_ranges(info.uri, [(0, info.size)], etag=info.etag)[0]
    except (NotFoundError, ChangedError):
        return None


def _is_settled(decision: str, before: dict[str, Any] | None, replaces: str | None) -> bool:
    """Whether there is a decision, and it is to stay.

    One beside a dead driver's lease under which it was not made came from a driver that had lost the slide: whether the
    tile scores are its own, nobody knows.
    """
    try:
        objects.read_bytes(decision)  # one request where there is none; `storage.stat` asks twice
    except NotFoundError:
        return False
    if before is None and replaces is None:
        return True
    there = read_with_etag(decision)
    return there is not None and there[0] != replaces and (before is None or there[1].get("lease") == before["tenure"])


def read_with_etag(uri: str) -> tuple[str, dict[str, Any]] | None:
    """Etag and content of a small JSON object; None where there is none."""
    while True:
        try:
            info = objects.stat(uri)
        except NotFoundError:
            return None
        data = read_version(info)
        if data is not None:
            return info.etag, json.loads(data)


def driver_uri(out: str, driver: str) -> str:
    """Where a driver's heartbeat is."""
    return objects.join(out, "drivers", f"{driver}.json")
