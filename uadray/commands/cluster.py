"""The Ray cluster that a command works on: joining it, and how its workers are shared out."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from uadray.cluster.workers import StreamConfig
from uadray.networks.bundle_description import DESCRIPTION
from uadray.storage import objects

if TYPE_CHECKING:
    from uadray.cluster.nodes import Nodes


def join_cluster(*, bundle_uris: Sequence[str] = (), out_uri: str | None = None) -> "Nodes":
    """Join the cluster of `RAY_ADDRESS`, or start Ray on this machine.

    Args:
        bundle_uris: bundles that every node must be able to read.
        out_uri: a folder that every node must be able to write to.

    Returns:
        The nodes that can be used. Each node of a cluster is examined first; a Ray of our own is not.
    """
    from uadray.cluster.connection import connect
    from uadray.cluster.nodes import Nodes
    from uadray.cluster.preflight import examiner

    connect()
    if not os.environ.get("RAY_ADDRESS"):
        return Nodes()
    must_be_readable = [objects.join(uri, DESCRIPTION) for uri in bundle_uris]
    nodes = Nodes(examiner(out_uri, must_be_readable))
    nodes.check()
    return nodes


def stream_config(score_workers: int | None, gpus: float) -> StreamConfig:
    """The configuration that `--score-workers` and `--gpus` stand for."""
    return StreamConfig(score_workers=score_workers, gpus=gpus)
