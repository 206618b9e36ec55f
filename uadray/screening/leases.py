r"""Which process screens which slide: any number of processes share one archive, and each slide is screened once.

    leases/<slide_id>.json    {"driver", "tenure"}: a process and its round of work; there while it screens the slide,
                              and beside the decision as long as another process lives

    free --put where nothing is--> ours --decision put--> decided --no other process lives: deleted, 1,000 at once--> .
      ^ \                           ^ | |
      |  \                          | | '--given back: deleted--> free
      |   \                         | '--a round that lost it sees another content: not ours any more
      |    '--a lease is there--> its process lives? --yes--> held (looked at again later)
      |                              |no
      |                              '--replaced (If-Match) by ours; a decision that was not made
      '                                 under the dead lease is not trusted and made anew

A slide is claimed by its reader when it starts. Who has listed decisions (`ClaimOwner.has_listed`) need not ask whether
this slide has been decided since: then its lease would still be there, for a lease beside a decision is only deleted by
a process that finds no other alive, and a process is at work before it lists. What is renewed is a process's heartbeat
(see `heartbeats`), not its leases: a few small requests a minute, however many slides it holds.
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
"""What `claim` answers for a slide that another process is screening, or has decided."""


@dataclass(frozen=True)
class ClaimOwner:
    """In whose name slides are claimed: one round of work of one process. It travels to the readers.

    Attributes:
        out: the screening's folder.
        process_id: of the process.
        round: counts its rounds of work.
        has_listed: all slides of the round were undecided when the process, already at work, listed decisions.
    """

    out: str
    process_id: str
    round: int
    has_listed: bool = False

    @property
    def id(self) -> str:
        """Stands in every lease and every decision that was made under it."""
        return f"{self.process_id}.{self.round}"

    @property
    def lease(self) -> bytes:
        """The content of its leases."""
        return json.dumps({"driver": self.process_id, "tenure": self.id}).encode()


def lease_uri(out: str, slide_id: str) -> str:
    """Where a slide's lease is."""
    return objects.join(out, "leases", f"{slide_id}.json")


def decision_uri(out: str, slide_id: str) -> str:
    """Where a slide's decision is."""
    return objects.join(out, "decisions", f"{slide_id}.json")


def heartbeat_uri(out: str, process_id: str) -> str:
    """Where a process's heartbeat is."""
    return objects.join(out, "drivers", f"{process_id}.json")


def claim(owner: ClaimOwner, slide_id: str, *, replaces: str | None = None) -> Outcome:
    """Take a slide, unless a living process has it or a decision exists. Asked again, it gives the same answer.

    Args:
        owner: in whose name.
        slide_id: the slide.
        replaces: etag of a decision that is to be made anew.
    """
    uri, lease_before = lease_uri(owner.out, slide_id), None
    if not objects.put_if_absent(uri, owner.lease):
        lease_before = take_over(owner, uri)
        if lease_before is None:
            return "held"
    elif owner.has_listed and replaces is None:
        return "ours"
    return "decided" if _is_decided(decision_uri(owner.out, slide_id), lease_before, replaces) else "ours"


def holds(owner: ClaimOwner, slide_id: str) -> bool:
    """Whether the slide is still ours."""
    try:
        return objects.read_bytes(lease_uri(owner.out, slide_id)) == owner.lease
    except NotFoundError:
        return False


def release(owner: ClaimOwner, slide_id: str) -> None:
    """Give up the lease of a slide that is ours and not decided."""
    objects.delete(lease_uri(owner.out, slide_id))


def take_over(owner: ClaimOwner, uri: str) -> dict[str, Any] | None:
    """Put our lease in the place of one that is there; returns that one, or None where its process is alive."""
    etag_and_lease = read_with_etag(uri)
    if etag_and_lease is None:
        return None  # given up this very moment: to be looked at again
    etag, lease = etag_and_lease
    if lease["tenure"] == owner.id:
        return lease  # the reader runs for the second time
    if lease["driver"] != owner.process_id:
        heartbeat = read_with_etag(heartbeat_uri(owner.out, lease["driver"]))
        if heartbeat is not None and not heartbeat[1].get("dead"):
            return None
    return lease if objects.replace_if_match(uri, owner.lease, etag) else None


def read_version(info: objects.ObjectInfo) -> bytes | None:
    """Read the very version that was listed; None where there is another or none by now."""
    try:
        return objects.read_ranges(info.uri, [(0, info.size)], etag=info.etag)[0]
    except (NotFoundError, ChangedError):
        return None


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


def _is_decided(decision: str, lease_before: dict[str, Any] | None, replaces: str | None) -> bool:
    """Whether there is a decision that is to stay.

    A decision beside a dead process's lease, and not made under that lease, came from a process that had lost the
    slide: whether the tile scores beside it are its own, nobody knows.
    """
    try:
        objects.read_bytes(decision)  # one request where there is none; `objects.stat` asks twice
    except NotFoundError:
        return False
    etag_and_record = read_with_etag(decision)
    if etag_and_record is None or etag_and_record[0] == replaces:
        return False
    return lease_before is None or etag_and_record[1].get("lease") == lease_before["tenure"]
