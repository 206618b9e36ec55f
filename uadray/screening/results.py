"""Slides -> results: one stream after the other, parts put together, and what the system fails at tried again."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from uadray import metrics
from uadray.cluster.attempts import Attempts, is_there
from uadray.cluster.nodes import Nodes, head_address
from uadray.cluster.read_tasks import ReadTask
from uadray.cluster.rows import StreamError
from uadray.cluster.stream import stream
from uadray.cluster.waiting import Say, Waiting
from uadray.cluster.watch_actor import DriversWatch
from uadray.cluster.workers import StreamConfig
from uadray.detectors.description import BundleDescription
from uadray.errors import SYSTEM_REASONS, shown
from uadray.screening.assembly import assembled
from uadray.screening.leases import NOT_OURS
from uadray.screening.part_counts import count_part
from uadray.screening.parts import failed_part
from uadray.screening.slide_groups import slide_groups
from uadray.screening.slide_reader import slide_read_tasks
from uadray.screening.slide_result import SlideResult
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

if TYPE_CHECKING:
    from uadray.screening.scorer import LoadDetector, PartScorer

TASKS_A_STREAM = 20_000
"""Read tasks of one stream: what the driver and the watch remember of its slides goes with it."""

LAST_LOOK_S = 10.0
"""How long the end of a stream waits to hear which slides have crashed."""


def _nothing(_: str) -> None:
    """Says nothing."""


def _never() -> bool:
    """Never stops."""
    return False


def scored_slides(
    rows: Sequence[SlideRow], *, bundles: Mapping[str, BundleDescription], config: StreamConfig,
    reads: Callable[[Sequence[SlideRow]], list[ReadTask]] | None = None, load: "LoadDetector | None" = None,
    nodes: Nodes | None = None, say: Say = _nothing, stop: Callable[[], bool] = _never,
) -> Generator[SlideResult]:  # fmt: skip
    """Read and score every slide; yields each, once, as soon as its last part is there.

    What the system fails at is tried again, see `uadray.cluster.attempts`. A node that is left out ends the stream: it
    starts again without that node, with the slides that have not ended.

    Args:
        rows: the slides.
        bundles: the bundles' descriptions by their URI; they read the same tiles, see `bundles.arranged`.
        config: how the cluster is shared.
        reads: makes read tasks of rows; `slide_read_tasks` unless given.
        load: makes the detector, in the actor; `load_detector` unless given.
        nodes: that are used.
        say: takes what is waited for, in a line; the empty text where nothing is.
        stop: asked every second, and after every part, whether to end at once.

    Raises:
        WorkError: the system fails at slide after slide, nothing moves, or the cluster is gone.
    """
    attempts = Attempts(nodes or Nodes())
    make = reads or (lambda batch: slide_read_tasks(batch, next(iter(bundles.values())).tiles))
    arguments = scorer_arguments(bundles, config) | ({"load": load} if load else {})
    unanswered = set[str]()
    todo = slide_groups(rows, n_cores=attempts.nodes.cores())
    while todo and not stop():
        groups = todo[:TASKS_A_STREAM]
        batch = [row for group in groups for row in group]
        ended: set[str] = set()
        left_out = len(attempts.nodes.left_out)
        streamed = _streamed(
            batch, make(batch), arguments=arguments, config=config, nodes=attempts.nodes, say=say, stop=stop,
            groups=_places([len(group) for group in groups]), unanswered=unanswered,
            n_later=sum(len(group) for group in todo[len(groups) :]),
        )  # fmt: skip
        with closing(streamed):
            try:
                for result in streamed:
                    final = _settled(result, attempts)
                    if final is not None:
                        ended.add(final.row.slide_id)
                        yield final
                    if len(attempts.nodes.left_out) > left_out:
                        break
            except StreamError as error:
                attempts.broke(str(error))
        left = [[row] for row in batch if row.slide_id not in ended]
        todo = todo[len(groups) :] + left  # what was given back comes last, each slide by itself


def _places(sizes: Sequence[int]) -> list[range]:
    """The places of the members of groups of these sizes, one group after the other.

    >>> _places([2, 1])
    [range(0, 2), range(2, 3)]
    """
    ends = list(accumulate(sizes, initial=0))
    return [range(start, end) for start, end in pairwise(ends)]


def _settled(result: SlideResult, attempts: Attempts) -> SlideResult | None:
    """The result, or None where the slide is tried again."""
    if result.failure is None:
        attempts.worked(result.row)
        return result
    word, message = result.failure
    if word == "missing" and not objects.is_s3(result.row.uri) and is_there(result.row.uri):
        word, message = "node", f"{result.row.uri} is not there, and on the driver's machine it is"
    if word not in SYSTEM_REASONS:
        if word not in NOT_OURS:
            attempts.ended()
        return result
    node = {name: str(result.header.get(name) or "") for name in ("node_id", "address")}
    outcome = attempts.failed(result.row, word, message, **node)
    if outcome.again:
        return None
    return replace(result, failure=outcome.failure, is_open=not outcome.is_verdict)


def _streamed(
    rows: Sequence[SlideRow], tasks: Sequence[ReadTask], *, arguments: dict[str, Any], config: StreamConfig,
    nodes: Nodes, say: Say, groups: Sequence[Sequence[int]], stop: Callable[[], bool], unanswered: set[str],
    n_later: int,
) -> Generator[SlideResult]:  # fmt: skip
    """One stream: results as they come.

    Of a slide whose reader ended without an answer nothing comes the first time, and it is noted in `unanswered`: where
    a reader dies at one slide of a group, Ray may drop what its second run says of those before.
    """
    parts: dict[int, dict[int, dict[str, Any]]] = {}
    done: set[int] = set()
    watch, retried = DriversWatch(), 0
    names = [shown(row.slide_id) for row in rows]
    waiting = Waiting(
        names, done, watch=watch, nodes=nodes, timeout_s=config.no_progress_timeout_s, say=say, head=head_address()
    )
    source = stream(
        tasks, scorer=_part_scorer, arguments=arguments, failed_row=failed_part, config=config, nodes=nodes,
        watch=watch, groups=groups, n_later=n_later,
    )  # fmt: skip
    try:
        with closing(source):
            for part in source:
                if stop():
                    return
                look = watch.look()
                metrics.count(metrics.RETRIES, look.retried - retried, cause="crashed")
                retried = look.retried
                yield from _crashed(rows, look.crashed, done)
                if part is None:
                    if waiting.idle():
                        return
                    continue
                index, header = part["slide"], json.loads(part["header"])
                waiting.row(index, 1 + len(parts.get(index, ())), header.get("n_parts", 1))
                if index in done:
                    continue
                if part["part"] not in parts.get(index, {}):
                    count_part(header)
                if part["part"] >= 0:
                    parts.setdefault(index, {})[part["part"]] = part
                result_or_none = assembled(rows[index], part, parts.get(index, {}))
                if result_or_none is not None:
                    done.add(index)
                    parts.pop(index, None)
                    yield result_or_none
        yield from _crashed(rows, watch.look(LAST_LOOK_S).crashed, done)
        for row in (rows[index] for index in sorted(set(range(len(rows))) - done)):
            if row.slide_id in unanswered:
                yield SlideResult(row, failure=("unreachable", "its reader ended without an answer"))
            else:
                metrics.count(metrics.RETRIES, cause="unreachable")
            unanswered.add(row.slide_id)
    finally:
        watch.close()


def _crashed(rows: Sequence[SlideRow], crashed: dict[int, str], done: set[int]) -> Iterator[SlideResult]:
    for index in crashed.keys() - done:
        done.add(index)
        yield SlideResult(rows[index], failure=("crashed", crashed[index]))


def _part_scorer(**arguments: Any) -> "PartScorer":
    """What an actor scores with. Only actors import torch: the driver has no use for it."""
    from uadray.screening.scorer import PartScorer

    return PartScorer(**arguments)


def scorer_arguments(bundles: Mapping[str, BundleDescription], config: StreamConfig) -> dict[str, Any]:
    """For `PartScorer`: every actor checks its weights against the descriptions that the driver read."""
    device = "cuda" if config.gpus else "cpu"
    return {
        "bundles": dict(bundles),
        "device": device,
        "batch_tiles": config.batch_tiles,
        "precision": config.precision,
    }
