"""Whose fault it is, and when to stop: decided by what came before, without a cluster."""

from collections.abc import Collection

import pytest
from seaweed import SeaweedServer

from uadray.cluster.attempts import MAX_BREAKS, MAX_IN_A_ROW, MAX_TRIES, Attempts
from uadray.cluster.nodes import Nodes
from uadray.errors import WorkError
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

ROWS = [SlideRow(f"s{i}", f"/nowhere/s{i}.tif") for i in range(20)]


def _failed(attempts: Attempts, row: SlideRow, reason: str, node: str = "a") -> tuple[bool, bool]:
    outcome = attempts.failed(row, reason, "what happened", node_id=node, address="10.0.0.1")
    return outcome.again, outcome.is_verdict


@pytest.mark.usefixtures("two_nodes")
def test_a_broken_node_is_left_out_and_its_slides_are_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    nodes = Nodes()
    attempts = Attempts(nodes)
    assert nodes.selector() is None
    assert (nodes.count(), nodes.cores()) == (2, 4)
    for row in ROWS:  # however many of its faults come
        assert _failed(attempts, row, "device", "b") == (True, False)
    assert nodes.selector() == {"ray.io/node-id": "!in(b)"}
    assert (nodes.count(), nodes.cores()) == (1, 2)
    assert nodes.left_out == {"b": "node 10.0.0.2: what happened"}
    with pytest.raises(WorkError, match=r"no node can be used; node 10\.0\.0\.2: .*; node 10\.0\.0\.1: what happened"):
        _failed(attempts, ROWS[0], "node", "a")


@pytest.mark.usefixtures("two_nodes")
def test_a_node_without_access_is_looked_at() -> None:
    asked: list[list[str]] = []

    def examine(node_ids: Collection[str], _: float) -> dict[str, list[str]]:
        asked.append(sorted(node_ids))
        return {node_id: ["S3: refused"] if node_id == "b" else [] for node_id in node_ids}

    attempts = Attempts(Nodes(examine))
    assert _failed(attempts, ROWS[0], "no_access", "a") == (True, False)
    assert attempts.nodes.left_out == {}
    assert _failed(attempts, ROWS[1], "no_access", "b") == (True, False)
    assert attempts.nodes.left_out.keys() == {"b"}
    assert asked == [["a"], ["b"]]


def test_faults_at_slide_after_slide_end_the_job() -> None:
    attempts = Attempts(Nodes())
    for row in ROWS[: MAX_IN_A_ROW - 1]:
        assert _failed(attempts, row, "unreachable") == (True, False)
    with pytest.raises(WorkError, match=f"{MAX_IN_A_ROW} faults in a row .* unreachable: what happened"):
        _failed(attempts, ROWS[-1], "unreachable")


def test_a_slide_in_between_ends_the_row() -> None:
    attempts = Attempts(Nodes())
    for row in ROWS:
        assert _failed(attempts, row, "disk_full")[0]
        attempts.worked(row)


def test_a_slide_is_tried_three_times_and_then_stays_open() -> None:
    attempts = Attempts(Nodes())
    attempts.worked(ROWS[1])
    assert [_failed(attempts, ROWS[0], "cache_busy") for _ in range(MAX_TRIES)] == [
        (True, False), (True, False), (False, False),
    ]  # fmt: skip


def test_a_slide_that_memory_never_suffices_for_has_crashed() -> None:
    attempts = Attempts(Nodes())
    assert [_failed(attempts, ROWS[0], "memory") for _ in range(2)] == [(True, False), (False, True)]


@pytest.mark.s3
def test_a_refusal_is_a_verdict_only_if_the_driver_meets_it_too(
    s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused to a node and to the driver, which can read others: it is about this slide."""
    rows = {name: SlideRow(name, f"s3://{bucket}/attempts/{name}.tif") for name, bucket in _buckets(s3).items()}
    for row in rows.values():
        objects.write_bytes(row.uri, b"x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")  # from here on requests are anonymous
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for worked, asked, expected in (
        ([], "private", (False, False)),  # nothing was seen to work: it may be the credentials
        (["public"], "private", (False, True)),
        (["public"], "other", (False, False)),  # the driver can read it
    ):
        attempts = Attempts(Nodes())
        for name in worked:
            attempts.worked(rows[name])
        assert [_failed(attempts, rows[asked], "no_access") for _ in range(MAX_TRIES)][-1] == expected, (worked, asked)


def _buckets(server: SeaweedServer) -> dict[str, str]:
    return {"public": server.public_bucket, "other": server.public_bucket, "private": server.bucket}


def test_a_stream_that_breaks_again_and_again_ends_the_job() -> None:
    attempts = Attempts(Nodes())
    for _ in range(MAX_BREAKS - 1):
        attempts.broke("OSError: x")
    with pytest.raises(WorkError, match="Ray has ended the work 3 times in a row: OSError: x"):
        attempts.broke("OSError: x")
