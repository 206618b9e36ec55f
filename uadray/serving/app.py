"""The Serve application: `build_app` makes deployments of the ingress and of the stages, and binds them."""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from uadray.detectors.bundle import Bundle, read_bundle
from uadray.errors import InputError
from uadray.serving.access import digest
from uadray.serving.config import ServeConfig, StageConfig
from uadray.serving.endpoints import build_http
from uadray.serving.refusals import RefusedError
from uadray.serving.stages import AllStages, MapStage, ReconstructStage, Scores, ScoreStage
from uadray.storage import objects
from uadray.tiles.images import Pixels

TOKEN = "UADRAY_TOKEN"  # noqa: S105 (the name of a variable)

STAGE_ONGOING = 2
"""Requests in a replica of a stage: one at work, and one whose arrays have already arrived."""

LOST = (RayActorError, ObjectLostError, RayServeException)
"""Errors of a replica or node that died. Serve raises the last for one that died in an earlier stage."""


class Ingress:
    """Takes requests over HTTP and sends their tiles through the stages."""

    def __init__(
        self, config: ServeConfig, bundle: Bundle, token_digest: str | None, *stages: DeploymentHandle
    ) -> None:
        self.config, self.bundle, self.token_digest, self.stages = config, bundle, token_digest, stages
        self._is_ready = False

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The HTTP application; Serve calls this once the replica is built."""
        return build_http(
            self.config, self.bundle, token_digest=self.token_digest, score=self.score, ready=self.ready
        )  # fmt: skip

    async def score(self, pixels: Pixels, maps: bool = False) -> Scores:
        """Scores of RGB tiles [N, tile, tile, 3]; tried once more where a replica died, since scoring changes nothing.

        Raises:
            RefusedError: 503.
        """
        try:
            try:
                return await self._send(pixels, maps)
            except LOST:
                return await self._send(pixels, maps)
        except LOST as error:
            raise RefusedError(
                503, "the detector is not available; try again in a moment", {"Retry-After": "1"}
            ) from error

    async def _send(self, pixels: Pixels, maps: bool) -> Scores:
        match self.stages:
            case (map_stage, reconstruct_stage, score_stage):
                z = map_stage.remote(pixels)
                scores: Scores = await score_stage.remote(pixels, reconstruct_stage.remote(z), z, maps=maps)
            case (all_stages,):
                scores = await all_stages.remote(pixels, maps=maps)
        return scores

    async def ready(self) -> bool:
        """True once all stages have answered with this bundle's id. Serve replaces replicas that die later."""
        if not self._is_ready:
            try:
                ids = [await h.bundle_id.remote() for h in self.stages]
            except LOST:
                return False
            self._is_ready = set(ids) == {self.bundle.id}
        return self._is_ready


def build_app(config: ServeConfig) -> serve.Application:
    """The Serve application of a configuration; the bearer token is taken from the environment.

    Raises:
        InputError: there is no bundle, or others can reach the host and there is no token.
    """
    token = token_of(config)
    uri = objects.resolve(config.bundle, str(Path.cwd()))
    bundle = read_bundle(uri)
    if bundle.tiles.stain is not None:
        raise InputError(f"bundle {uri} normalises stain by slide; tiles that come alone cannot be scored with it")
    classes: list[Any] = [AllStages] if config.one_replica else [MapStage, ReconstructStage, ScoreStage]
    stages = [
        _deployment(cls, stage, max_ongoing_requests=STAGE_ONGOING).bind(
            uri, bundle, threads=max(1, int(stage.cpus)), batch_tiles=config.batch_tiles
        )
        for cls, stage in zip(classes, config.stages.values(), strict=True)
    ]
    # The ingress counts requests and refuses in JSON. Serve's limit is higher, to leave room for that and for /healthz.
    room = config.max_ongoing_requests + config.max_queued_requests + 64
    ingress = _deployment(serve.ingress()(Ingress), config.ingress, max_ongoing_requests=room)
    return ingress.bind(config, bundle, digest(token) if token else None, *stages)


def token_of(config: ServeConfig) -> str:
    """The bearer token in the environment; empty where there is none, and none is needed.

    Raises:
        InputError: there is none, and `host` can be reached from elsewhere.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token and not config.is_loopback:
        raise InputError(f"host {config.host} can be reached from elsewhere: set {TOKEN}, or serve on 127.0.0.1")
    return token


def _deployment(cls: Any, stage: StageConfig, *, max_ongoing_requests: int) -> serve.Deployment:
    options: dict[str, Any] = {"num_replicas": stage.replicas}
    if stage.max_replicas is not None:
        scale = {"min_replicas": stage.replicas, "max_replicas": stage.max_replicas, "target_ongoing_requests": 1}
        options = {"autoscaling_config": scale}
    return serve.deployment(
        cls,
        ray_actor_options={"num_cpus": stage.cpus, "num_gpus": stage.gpus},
        max_ongoing_requests=max_ongoing_requests,
        max_constructor_retry_count=3,
        **options,
    )
