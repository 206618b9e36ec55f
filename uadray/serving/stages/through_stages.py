"""Tiles through the stages that score: what the ingress and the worker of slide jobs call."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, final

import numpy as np
from ray.serve.handle import DeploymentHandle

from uadray.errors import ChangedError, InputError, UadrayError, UnreachableError
from uadray.serving.config import ServeConfig
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.registry import RegisteredBundle
from uadray.serving.scores import Scores, Wanted
from uadray.serving.stages.joined_calls import CrowdedError, TooManyTilesError
from uadray.serving.stages.loaded_stages import makes_pictures
from uadray.serving.stages.replica_calls import SOON, answered
from uadray.tiles.images import Pixels


@final
class ThroughStages:
    """The deployments that score, one behind the other or all in one.

    Args:
        config: which of them scale to zero.
        stages: `MapStage`, `ReconstructStage` and `ScoreStage`, or `AllStages`.
    """

    def __init__(self, config: ServeConfig, stages: Sequence[DeploymentHandle]) -> None:
        self._stages, self._limit_s = tuple(stages), config.search_timeout_s
        self._kept = [h for h, stage in zip(stages, config.stages.values(), strict=True) if stage.replicas]
        self._ready: set[str] = set()
        self._pictures: dict[str, bool] = {}

    async def score(self, bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
        """Scores of RGB tiles [N, tile, tile, 3] while a client waits.

        Raises:
            RefusedError: 413, the detector searches, and for so many tiles it takes too long; 429, the stages are full;
                503, they are away, or the bundle cannot be loaded.
        """
        return await self._score(bundle, pixels, wanted, self._limit_s)

    async def _score(
        self, bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted, limit_s: float | None
    ) -> Scores:  # fmt: skip
        if not len(pixels):
            return Scores(np.empty(0))
        try:
            scores: Scores = await answered(lambda: self._sent(bundle, pixels, wanted, limit_s), by="the detector")
        except TooManyTilesError as error:
            raise RefusedError(413, str(error)) from error
        except CrowdedError as error:
            raise RefusedError(503, str(error), SOON) from error
        except (ChangedError, InputError) as error:
            raise RefusedError(503, f"bundle {bundle.name} cannot be loaded now", {"Retry-After": "5"}) from error
        if len(scores.score) != len(pixels):
            raise RuntimeError(f"{len(scores.score)} scores for {len(pixels)} tiles")
        return scores

    def score_now(
        self, bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted, *, loop: asyncio.AbstractEventLoop
    ) -> Scores:
        """The same, however long it takes, waited for in a thread; `loop` is that of the replica.

        Raises:
            UnreachableError: the stages are full or away, or the bundle cannot be loaded.
        """
        try:
            return asyncio.run_coroutine_threadsafe(self._score(bundle, pixels, wanted, None), loop).result()
        except RefusedError as error:
            raise UnreachableError(f"the stages: {error.detail}") from error

    async def ready(self, bundle: RegisteredBundle) -> bool:
        """True once a replica of each stage has loaded the bundle; stages that scale to zero load it when asked."""
        if bundle.model_id in self._ready:
            return True
        try:
            for stage in self._kept:
                has = stage.options(method_name="has", multiplexed_model_id=bundle.model_id)
                await answered(partial(_one, has, bundle.model_id), by="the detector")
        except (RefusedError, UadrayError):
            return False
        self._ready.add(bundle.model_id)
        return True

    def _sent(
        self, bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted, limit_s: float | None
    ) -> list[Any]:  # fmt: skip
        """One way through the stages: each sends its answer to the next, and only the last comes back here.

        Nothing is sent to the stage `reconstruct` of a detector that makes no picture.
        """
        stages = [stage.options(multiplexed_model_id=bundle.model_id) for stage in self._stages]
        if len(stages) == 1:
            return [stages[0].remote(pixels, wanted, limit_s=limit_s)]
        z = stages[0].remote(pixels, limit_s=limit_s)
        if not self._has_picture(bundle):
            return [z, stages[2].remote(pixels, None, z, wanted)]
        x_hat = stages[1].remote(z)
        return [z, x_hat, stages[2].remote(pixels, x_hat, z, wanted)]

    def _has_picture(self, bundle: RegisteredBundle) -> bool:
        if bundle.model_id not in self._pictures:
            self._pictures[bundle.model_id] = makes_pictures(bundle.description)
        return self._pictures[bundle.model_id]


def _one(handle: DeploymentHandle, *arguments: Any) -> list[Any]:
    return [handle.remote(*arguments)]
