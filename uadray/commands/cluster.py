"""The Ray cluster that a command works on: joining it, and how its workers are shared out."""

import importlib
import os
import threading
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from uadray.cluster.workers import StreamConfig
from uadray.networks.bundle_description import DESCRIPTION
from uadray.storage import objects

if TYPE_CHECKING:
    from uadray.cluster.nodes import Nodes


LOOKED_FOR = 20
"""Slides that are looked for on this machine until one is found."""


def join_cluster(
    *, bundle_uris: Sequence[str] = (), out_uri: str | None = None, slide_uris: Sequence[str] = (),
    share: float = 1.0, begun_at: str | None = None,
) -> "Nodes":  # fmt: skip
    """Join the cluster of `RAY_ADDRESS`, or start Ray on this machine.

    Args:
        bundle_uris: bundles that every node must be able to read.
        out_uri: a folder that every node must be able to write to.
        slide_uris: slides; the first that lies in a folder of this machine is one that every node must be able to read.
        share: of the cluster's CPUs that this command may use.
        begun_at: address of a Ray that another command has started on this machine.

    Returns:
        The nodes that can be used. Each node of a cluster is examined first; a Ray of our own is not.
    """
    from uadray.cluster.connection import connect
    from uadray.cluster.nodes import Nodes
    from uadray.cluster.preflight import examiner

    connect(begun_at=begun_at)
    if begun_at or not os.environ.get("RAY_ADDRESS"):
        return Nodes(share=share)
    must_be_readable = [*(objects.join(uri, DESCRIPTION) for uri in bundle_uris), *_first_here(slide_uris)]
    nodes = Nodes(examiner(out_uri, must_be_readable), share=share)
    nodes.check()
    return nodes


def _first_here(uris: Sequence[str]) -> list[str]:
    """The first file that is on this machine, if one of the first `LOOKED_FOR` is."""
    from uadray.cluster.attempts import is_there

    return list(islice((uri for uri in uris[:LOOKED_FOR] if not objects.is_s3(uri) and is_there(uri)), 1))


class Joining:
    """A cluster that is joined when its nodes are first asked for; arguments as of `join_cluster`."""

    def __init__(
        self, *, bundle_uris: Sequence[str] = (), out_uri: str | None = None, slide_uris: Sequence[str] = ()
    ) -> None:
        self._bundle_uris, self._out_uri, self._slide_uris = bundle_uris, out_uri, slide_uris
        self._nodes: Nodes | None = None

    def prepare(self) -> None:
        """Import Ray in a thread, beside other work: it takes a second.

        Ray is not started there: Linux ends the processes that a thread has started when the thread ends.
        """
        modules = ("uadray.cluster.preflight", "uadray.screening.results")
        threading.Thread(target=lambda: [importlib.import_module(name) for name in modules]).start()

    def nodes(self) -> "Nodes":
        """The nodes that can be used.

        Raises:
            InputError, WorkError: it cannot be joined, see `uadray.cluster.connection.connect`.
        """
        if self._nodes is None:
            self._nodes = join_cluster(
                bundle_uris=self._bundle_uris, out_uri=self._out_uri, slide_uris=self._slide_uris
            )
        return self._nodes

    def troubles(self) -> list[str]:
        """What was wrong with nodes; nothing where none was needed."""
        return self._nodes.troubles() if self._nodes is not None else []


def stream_config(score_workers: int | None, gpus: float, *, is_bf16: bool = False) -> StreamConfig:
    """The configuration that `--score-workers`, `--gpus` and `--bf16` stand for."""
    return StreamConfig(score_workers=score_workers, gpus=gpus, precision="bfloat16" if is_bf16 else "float32")
