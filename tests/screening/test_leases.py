"""Claims: one process gets a slide."""

import threading
from collections import Counter
from pathlib import Path

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
