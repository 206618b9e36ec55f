"""The Ray cluster that a command works on: joining it, and how its workers are shared out."""

import functools
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
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


class Joining:
    """A cluster that is joined once it is needed, or beside other work before that; arguments as of `join_cluster`."""

    def __init__(self, *, bundle_uris: Sequence[str] = (), out_uri: str | None = None) -> None:
        self._join = functools.partial(join_cluster, bundle_uris=bundle_uris, out_uri=out_uri)
        self._joined: Future[Nodes] | None = None

    def begin(self) -> None:
        """Join in a thread: Ray takes seconds to start."""
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # as Ray does where it is started in the main thread
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        self._joined = Future()
        threading.Thread(target=self._resolve_and_stay, args=(self._joined,), name="uadray-join", daemon=True).start()

    def nodes(self) -> "Nodes":
        """The nodes that can be used, of the cluster that is joined by then.

        Raises:
            InputError, WorkError: it cannot be joined, see `uadray.cluster.connection.connect`.
        """
        if self._joined is None:
            self._joined = Future()
            self._resolve(self._joined)
        return self._joined.result()

    def troubles(self) -> list[str]:
        """What was wrong with nodes; nothing where none was needed."""
        return self._joined.result().troubles() if self._joined is not None else []

    def _resolve_and_stay(self, joined: "Future[Nodes]") -> None:
        """Join. The thread stays: Linux ends the processes that Ray has started in it when it ends."""
        self._resolve(joined)
        threading.Event().wait()

    def _resolve(self, joined: "Future[Nodes]") -> None:
        try:
            joined.set_result(self._join())
        except BaseException as error:
            joined.set_exception(error)


def stream_config(score_workers: int | None, gpus: float, *, is_bf16: bool = False) -> StreamConfig:
    """The configuration that `--score-workers`, `--gpus` and `--bf16` stand for."""
    return StreamConfig(score_workers=score_workers, gpus=gpus, precision="bfloat16" if is_bf16 else "float32")
