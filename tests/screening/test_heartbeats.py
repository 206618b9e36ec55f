"""Who is dead, and who finds out that others think so."""

import json
import time
from pathlib import Path

from uadray.screening import heartbeats, leases
from uadray.storage import objects


def _beating_elsewhere(out: str, lease_s: float) -> str:
    """The heartbeat of a driver on another machine."""
    uri = leases.heartbeat_uri(out, "far")
    objects.write_bytes(uri, json.dumps({"driver": "far", "machine": "m", "lease_s": lease_s}).encode())
    return uri


def test_a_driver_elsewhere_is_dead_when_it_was_seen_unchanged(tmp_path: Path) -> None:
    out = str(tmp_path)
    uri = _beating_elsewhere(out, 0.3)
    me = heartbeats.ScreeningProcess(out)
    assert me.look() == {me.id, "far"}
    time.sleep(1)  # a pause of the observer counts as half of it at most
    assert me.look() == {me.id, "far"}
    objects.write_bytes(uri, json.dumps({"driver": "far", "lease_s": 0.3, "beat": 2}).encode())
    for _ in range(2):
        time.sleep(0.2)
        assert me.look() == {me.id, "far"}
    time.sleep(0.2)
    assert me.look() == {me.id}
    assert objects.read_bytes(uri) == heartbeats.dead_marker({})


def test_a_driver_that_was_declared_dead_joins_again_and_knows(tmp_path: Path) -> None:
    with heartbeats.ScreeningProcess(str(tmp_path)) as me:
        me.beat()
        assert not me.lease_may_be_lost
        for act in (lambda uri: objects.write_bytes(uri, heartbeats.dead_marker({})), objects.delete):
            act(leases.heartbeat_uri(me.out, me.id))
            me.beat()
            assert me.lease_may_be_lost
            assert json.loads(objects.read_bytes(leases.heartbeat_uri(me.out, me.id)))["driver"] == me.id
            me.begin_round()
            assert not me.lease_may_be_lost
    assert not objects.exists(leases.heartbeat_uri(me.out, me.id))
