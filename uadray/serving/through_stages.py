"""Tiles through the stages that score: what the ingress and the worker of slide jobs call."""

import asyncio
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from uadray.errors import ChangedError, InputError, UnreachableError
from uadray.serving.config import ServeConfig
from uadray.serving.refusals import RefusedError
from uadray.serving.registry import RegisteredBundle
from uadray.serving.scores import Scores, Wanted
from uadray.tiles.images import Pixels

LOST = (
    RayActorError, ObjectLostError, OutOfMemoryError, NodeDiedError, WorkerCrashedError, TaskCancelledError,
    RayServeException,
)  # fmt: skip
"""Errors of a replica or node that died, and of one that ends. Serve raises the last for one in an earlier stage."""

SOON = {"Retry-After": "1"}


@final
class ThroughStages:
    """The deployments that score, one behind the other or all in one.

    Args:
        config: which of them scale to zero.
        stages: `MapStage`, `ReconstructStage` and `ScoreStage`, or `AllStages`.
    """

    def __init__(self, config: ServeConfig, stages: Sequence[DeploymentHandle]) -> None:
        self._stages = tuple(stages)
        self._kept = [h for h, stage in zip(stages, config.stages.values(), strict=True) if stage.replicas]
        self._ready: set[str] = set()

    async def score(self, bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
        """Scores of RGB tiles [N, tile, tile, 3]; tried once more where a replica died: scoring changes nothing.

        Raises:
            RefusedError: 429, the stages are full; 503, they are away, or the bundle cannot be loaded.
        """
        if not len(pixels):
            return Scores(np.empty(0))
        try:
            try:
                return await self._sent(bundle.model_id, pixels, wanted)
            except BackPressureError:
                raise
            except LOST:
                return await self._sent(bundle.model_id, pixels, wanted)
        except BackPressureError as error:
            raise RefusedError(429, f"the stages are full: {error}", SOON) from error
        except LOST as error:
            raise RefusedError(503, "the detector is not available; try again in a moment", SOON) from error
        except (ChangedError, InputError) as error:
            raise RefusedError(503, f"bundle {bundle.name} cannot be loaded now", {"Retry-After": "5"}) from error

    def score_now(
        self, bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted, *, loop: asyncio.AbstractEventLoop
    ) -> Scores:
        """The same, waited for in a thread; `loop` is that of the replica.

        Raises:
            UnreachableError: the stages are full or away.
        """
        try:
            return asyncio.run_coroutine_threadsafe(self.score(bundle, pixels, wanted), loop).result()
        except RefusedError as error:
            raise UnreachableError(f"the stages: {error.detail}") from error

    async def ready(self, bundle: RegisteredBundle) -> bool:
        """True once a replica of each stage has loaded the bundle; stages that scale to zero load it when asked."""
        if bundle.model_id not in self._ready:
            try:
                asked = [
                    h.options(multiplexed_model_id=bundle.model_id).has.remote(bundle.model_id) for h in self._kept
                ]
                for response in asked:
                    await response
            except (*LOST, ChangedError, InputError):
                return False
            self._ready.add(bundle.model_id)
        return True

    async def _sent(self, model_id: str, pixels: Pixels, wanted: Wanted) -> Scores:
        """One way through the stages: each sends its answer to the next, and only the last comes back here."""
        responses: list[Any] = []
        try:
            stages = [stage.options(multiplexed_model_id=model_id) for stage in self._stages]
            if len(stages) == 1:
                responses = [stages[0].remote(pixels, wanted)]
            else:
                z = stages[0].remote(pixels)
                x_hat = stages[1].remote(z)
                responses = [z, x_hat, stages[2].remote(pixels, x_hat, z, wanted)]
            scores: Scores = await responses[-1]
        except asyncio.CancelledError:  # the request timed out, or its sender went away
            for response in responses:
                response.cancel()
            raise
        if len(scores.score) != len(pixels):
            raise RuntimeError(f"{len(scores.score)} scores for {len(pixels)} tiles")
        return scores
