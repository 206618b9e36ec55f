"""Claims: one process gets a slide."""

import threading
from collections import Counter
from pathlib import Path

import pytest

from uadray.screening import leases
from uadray.storage import objects


def test_claims_by_threads(tmp_path: Path) -> None:
    """Eight at the same slides: one of them gets each, and gets it again when it asks again."""
    out = str(tmp_path)
    owners = [leases.ClaimOwner(out, f"d{i}", 1) for i in range(8)]
    for owner in owners:
        objects.write_bytes(leases.heartbeat_uri(out, owner.process_id), b'{"beat": 1}')
    slides, barrier, got = [f"s{i}" for i in range(12)], threading.Barrier(8), Counter[str]()

    def run(owner: leases.ClaimOwner) -> None:
        barrier.wait()
        for slide in slides:
            if leases.claim(owner, slide) == "ours":
                got[slide] += 1
                assert leases.claim(owner, slide) == "ours"

    threads = [threading.Thread(target=run, args=(owner,)) for owner in owners]
    [thread.start() for thread in threads]  # type: ignore[func-returns-value]
    [thread.join() for thread in threads]  # type: ignore[func-returns-value]
    assert got == Counter(slides)


def test_a_claim_by_who_has_listed_decisions_is_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others ask whether the slide was decided; a decision is asked for as well where one is to be made anew."""
    out, asked = str(tmp_path), list[str]()
    monkeypatch.setattr(objects, "read_bytes", lambda uri, read=objects.read_bytes: asked.append(uri) or read(uri))
    objects.write_bytes(leases.decision_uri(out, "s1"), b'{"lease": "other.1"}')
    assert leases.claim(leases.ClaimOwner(out, "a", 1, has_listed=True), "s0") == "ours"
    assert asked == []
    assert leases.claim(leases.ClaimOwner(out, "b", 1), "s1") == "decided"
    assert leases.claim(leases.ClaimOwner(out, "c", 1, has_listed=True), "s2", replaces="etag") == "ours"
    assert [objects.name(uri) for uri in asked] == ["s1.json", "s2.json"]
