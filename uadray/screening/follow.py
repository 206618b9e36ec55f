"""Screens an archive that grows, until it is stopped: `uadray screen --follow`. See `follower` for the loop."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from uadray import metrics, provenance
from uadray.cluster.workers import StreamConfig
from uadray.errors import ClusterLostError, InputError, WorkError
from uadray.screening import ledger
from uadray.screening.bundles import ScreeningBundle, arranged
from uadray.screening.follower import Follower, Pace, Stop
from uadray.screening.given_slides import is_file
from uadray.screening.job import Committer, screen_round, start_run
from uadray.screening.progress import Progress
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

if TYPE_CHECKING:
    from uadray.cluster.nodes import Nodes
    from uadray.screening.scorer import LoadDetector


def follow(
    uri: str, *, bundles: Sequence[ScreeningBundle], out: str, stop: Stop, join: "Callable[[], Nodes]",
    pace: Pace | None = None, config: StreamConfig | None = None, retry_failed: bool = False,
    progress: Progress | None = None, load: "LoadDetector | None" = None, viewer: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Screen the slides of a folder as they come into `out`, until stopped.

    Args:
        uri: folder or s3:// prefix in which slides arrive.
        bundles: that decide.
        out: folder or s3:// URI, of a new screening or of one to go on with.
        stop: ends it: what is being committed is finished, then the files for people are written.
        join: joins the cluster; called when there is something to screen, and again after a fault.
        pace: how often what is done.
        config: how the cluster is shared.
        retry_failed: try slides again that had failed before.
        progress: told how far it is.
        load: makes the detectors, in the actors; `load_detector` unless given.
        viewer: address of an endpoint's page that shows the slides, for links of the worklist.

    Returns:
        What `job.screen` returns, of all slides that are decided in `out` or have come; `growing`: slides that are not
        complete yet; `left_out`: how many files are no slides, by reason.

    Raises:
        InputError: the folder cannot be followed, or the bundles cannot be used.
        ClusterLostError: the cluster is gone; the same command goes on.
    """
    check_can_be_followed(uri, out)
    bundles = arranged(bundles)
    cluster = _Cluster(join, provenance.fingerprint([out, str(time.time())])[:8], bundles)
    with ledger.open_ledger(out, bundles, viewer=viewer) as book:

        def shown(done: int, total: int, tiles: int, note: str = "") -> None:
            committer.n_slides = follower.n_slides
            follower.renew_if_due()
            if progress is not None:
                progress(follower.n_slides - len(book.open), follower.n_slides, tiles, note)

        def a_round(rows: Sequence[SlideRow]) -> None:
            try:
                screen_round(
                    rows, book, committer, config=config or StreamConfig(), load=load, nodes=cluster.nodes(),
                    stop=stop.is_set,
                )  # fmt: skip
            except WorkError:
                cluster.forget()
                raise

        committer = Committer(0, progress=shown)
        book.describe = lambda: committer.state(book)
        follower = Follower(
            uri, book, a_round, stop=stop, pace=pace or Pace(), retry_failed=retry_failed,
            say=lambda note: committer.tick(book, note),
        )  # fmt: skip
        try:
            summary = follower.run()
            book.why = "stopped"
        except ClusterLostError as error:
            raise ClusterLostError(f"{error}; the same command goes on from there") from error
        finally:
            metrics.end_run()
    return summary | committer.facts() | cluster.troubles()


def check_can_be_followed(uri: str, out: str) -> None:
    """Refuse what is no folder in which slides arrive.

    Raises:
        InputError: it is a manifest or another file, or there is no such folder, or the results would lie in it.
    """
    is_s3 = objects.is_s3(uri)
    if is_file(uri):
        raise InputError(
            f"{uri}: --follow takes the folder in which slides arrive (s3://bucket/prefix/ or a path); a manifest says "
            "which slides there are, so leave --follow out to screen those"
        )
    if not is_s3 and not objects.local_path(uri).is_dir():
        raise InputError(f"{uri}: there is no such folder to follow")
    root, results = (objects.join(objects.resolve(each, "."), "").rstrip("/") + "/" for each in (uri, out))
    if results.startswith(root):
        raise InputError(f"--out {out} lies in {uri}, and each look for slides would list the results: name another")


class _Cluster:
    """The nodes in use, joined when they are needed. A node that was left out is tried again after the next fault."""

    def __init__(self, join: "Callable[[], Nodes]", run: str, bundles: Sequence[ScreeningBundle]) -> None:
        self._join, self._run, self._bundles = join, run, bundles
        self._nodes: Nodes | None = None
        self._is_counted = False
        self._troubles: dict[str, None] = {}

    def nodes(self) -> "Nodes":
        """The nodes that are used."""
        if self._nodes is None:
            self._nodes = self._join()
            if not self._is_counted:  # one that has joined anew goes on counting
                start_run(self._run, self._nodes, self._bundles)
                self._is_counted = True
        return self._nodes

    def forget(self) -> None:
        """Join anew next time."""
        self._note()
        self._nodes = None

    def troubles(self) -> dict[str, Any]:
        """What was wrong with nodes, as `node_troubles`; nothing where nothing was."""
        self._note()
        return {"node_troubles": list(self._troubles)} if self._troubles else {}

    def _note(self) -> None:
        if self._nodes is not None:
            self._troubles |= dict.fromkeys(self._nodes.troubles())
            while len(self._troubles) > 100:
                del self._troubles[next(iter(self._troubles))]
