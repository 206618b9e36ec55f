"""The stages of a detector as deployments of Ray Serve: thin, `loaded_stages` computes.

    MapStage          pixels                    -> z
    ReconstructStage  z                         -> x_hat, or None
    ScoreStage        pixels, x_hat, z, Wanted  -> Scores
    AllStages         pixels, Wanted            -> Scores, the three in one replica

A request names its bundle by Serve's multiplexed model id, `<id of the bundle>@<its URI>`: a replica keeps the bundles
used last, and Serve sends a request where its bundle is loaded. Requests of one bundle that arrive together are scored
together, up to a forward pass of it. The class is plain Python: `uadray.serving.app` makes a deployment of it for each
kind.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, final

import ray
import torch
from ray import serve

from uadray import metrics
from uadray.detectors.detector import BATCH, GPU_BATCH, STAGES, Detector, Stage
from uadray.detectors.inversion.interruption import looked_at
from uadray.detectors.stage_clock import StageClock, clocked
from uadray.serving.stages.joined_calls import Asked, JoinedCall, SearchEndedError
from uadray.serving.stages.loaded_stages import (
    check_tiles,
    load_stages,
    mapped,
    n_bytes,
    n_tiles,
    reconstructed,
    scored,
    scored_at_once,
)
from uadray.serving.stages.replica_logs import log_to_output
from uadray.tiles.images import Pixels

JOIN_WAIT_S = 0.001
"""A request of fewer tiles than a forward pass has waits so long for others of its bundle, in every stage."""

FAILURES = 3
"""After so many failures in a row, without a success, a replica calls itself broken, and Serve replaces it."""

Result = TypeVar("Result")

Kind = Literal["MapStage", "ReconstructStage", "ScoreStage", "AllStages"]
"""Names of the deployments."""


@dataclass(frozen=True)
class Work:
    """What a kind of replica does.

    Attributes:
        stages: of the detector, that it loads.
        metric: name under which it counts.
        compute: a detector, and the arguments of several requests -> an answer to each.
    """

    stages: tuple[Stage, ...]
    metric: str
    compute: Callable[[Detector, Sequence[Any]], Sequence[Any]]


WORK: dict[Kind, Work] = {
    "MapStage": Work(("map",), "serve_map", mapped),
    "ReconstructStage": Work(("reconstruct",), "serve_reconstruct", reconstructed),
    "ScoreStage": Work(("score",), "serve_score", scored),
    "AllStages": Work(STAGES, "serve_score", scored_at_once),
}


@final
class StageReplica:
    """One replica of a deployment that scores. It computes in one thread, one joined call at a time.

    Args:
        kind: which deployment.
        run: for which it counts: the endpoint, and not this replica.
        bundles: that are kept loaded.
        threads: of torch, on a CPU.
        batch_tiles: in one forward pass; None leaves it to the detector.
    """

    def __init__(
        self, kind: Kind, *, run: str = "", bundles: int = 3, threads: int = 1, batch_tiles: int | None = None
    ) -> None:  # fmt: skip
        log_to_output()
        logging.getLogger("ray.serve").addFilter(_is_of_tiles)
        self._work = WORK[kind]
        self._device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        self._thread = ThreadPoolExecutor(1, "uadray-stage", torch.set_num_threads, (threads,))
        self._batch_tiles = batch_tiles
        self._failures = 0
        self._clock = StageClock()
        metrics.start_run(run, (self._work.metric,), kind="serve", has_info=False)
        most = batch_tiles or (GPU_BATCH if self._device == "cuda" else BATCH)

        def size(asked: Sequence[Asked]) -> int:
            """In parts of a forward pass, of which `most` are a whole one: detectors have batches of their own."""
            together = math.ceil(most * sum(each.tiles / each.detector.batch_tiles for each in asked))
            return min(most, together) if len(asked) == 1 else together  # one alone is never too large

        # These two are made here, and not by decorators, because their limits are of the configuration.
        self.loaded = serve.multiplexed(max_num_models_per_replica=bundles)(self._loader())
        self._joined = serve.batch(max_batch_size=most, batch_wait_timeout_s=JOIN_WAIT_S, batch_size_fn=size)(
            self._joiner()
        )

    async def __call__(self, *arguments: Any, limit_s: float | None = None) -> Any:
        """The answer to one request for the bundle that it names; arguments and answer are those of the kind.

        Args:
            arguments: of the kind.
            limit_s: that a search may take from now on; None: as long as it takes.

        Raises:
            ChangedError: another bundle lies at the URI by now.
            CrowdedError: see `joined_calls`.
            InputError: the bundle cannot be loaded.
            TooManyTilesError: see `joined_calls`.
            ValueError: tiles that the bundle cannot score.
        """
        detector = await self.loaded(serve.get_multiplexed_model_id())
        if "map" in self._work.stages:
            self._check(arguments[0], detector)
        asked = Asked(detector, arguments, limit_s)
        try:
            return await self._joined(asked)
        except asyncio.CancelledError:
            asked.is_gone = True
            raise
        except SearchEndedError as error:
            asked.refuse(error.tile_s)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load the bundles of the model ids in `user_config["bundles"]`, before requests come; the first stays longest.

        Raises:
            InputError: one cannot be loaded.
        """
        for model_id in reversed(user_config.get("bundles", [])):
            await self.loaded(model_id)

    async def has(self, model_id: str) -> bool:
        """True, once the bundle is loaded here."""
        await self.loaded(model_id)
        return True

    def check_health(self) -> None:
        """Raise where calls fail one after the other: the device is broken, or memory is gone."""
        if self._failures >= FAILURES:
            raise RuntimeError(f"the last {self._failures} calls have failed")

    def _loader(self) -> Any:
        async def load(model_id: str) -> Detector:
            return await self._in_thread(
                lambda: clocked(
                    load_stages(model_id, self._work.stages, device=self._device, batch_tiles=self._batch_tiles),
                    self._clock,
                )
            )

        return load

    def _joiner(self) -> Any:
        async def join(asked: list[Asked]) -> list[Any]:
            return await self._in_thread(lambda: self._computed(asked))

        return join

    async def _in_thread(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def _computed(self, asked: list[Asked]) -> list[Any]:
        try:
            with looked_at(JoinedCall(asked).look):
                answers = computed(self._work, asked[0].detector, [each.arguments for each in asked], self._clock)
        except SearchEndedError:
            raise
        except BaseException:
            self._failures += 1
            raise
        self._failures = 0
        return answers

    def _check(self, pixels: Pixels, detector: Detector) -> None:
        try:
            check_tiles(pixels, detector)
        except ValueError:
            metrics.Meter(self._work.metric).add(errors=len(pixels) if pixels.ndim else 1)
            raise


def computed(work: Work, detector: Detector, asked: Sequence[Any], clock: StageClock) -> list[Any]:
    """The answers to several requests, and all of it counted; tiles of a call that fails are errors.

    Those of a search that was ended are neither scored nor errors.

    Args:
        work: which stages, and how they are computed.
        detector: whose stages `clock` times.
        asked: the arguments of each request.
        clock: see above.
    """
    meter, tiles, began = metrics.Meter(work.metric), sum(n_tiles(first) for first, *_ in asked), time.perf_counter()
    try:
        answers = list(work.compute(detector, asked))
    except SearchEndedError:
        meter.add(seconds=time.perf_counter() - began)
        raise
    except BaseException:
        meter.add(errors=tiles, seconds=time.perf_counter() - began)
        raise
    meter.add(tiles=tiles, bytes_=sum(n_bytes(first) for first, *_ in asked), seconds=time.perf_counter() - began)
    metrics.count(metrics.BATCH_TILES, tiles, stage=work.metric)
    passes = math.ceil(tiles / detector.batch_tiles)
    metrics.count(metrics.BATCH_ROOM, passes * detector.batch_tiles, stage=work.metric)
    seconds = clock.take()
    for stage in work.stages:
        metrics.count(metrics.STAGE_SECONDS, seconds[stage], stage=stage)
    if detector.device.type == "cuda":
        metrics.count(metrics.GPU_SECONDS, sum(seconds.values()), stage=work.metric)
    return answers


def _is_of_tiles(record: logging.LogRecord) -> bool:
    """False for Serve's warning that a batch has more requests than a replica: our batches are counted in tiles."""
    return "max_batch_size" not in record.getMessage()
