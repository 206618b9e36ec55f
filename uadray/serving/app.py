"""The Serve application: `build_app` makes deployments of its classes, and binds them.

    Ingress --> MapStage --> ReconstructStage --> ScoreStage      or AllStages
       |          ^
       |      SlideStage      works on the jobs in the object store
       '----> ViewStage       opens slides for the page

Limits and how replicas come and go are Serve's own: see `deployed`.
"""

import asyncio
import secrets
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle

from uadray import metrics
from uadray.detectors.description import described_bundle
from uadray.errors import InputError
from uadray.screening.bundles import ScreeningBundle
from uadray.serving.access.callers import Access, endpoint_tokens
from uadray.serving.config import ServeConfig, StageConfig
from uadray.serving.http import build_http
from uadray.serving.jobs.folders import claim_screening
from uadray.serving.jobs.queue import Jobs
from uadray.serving.registry import RegisteredBundle, Registry
from uadray.serving.scaling import WANTED
from uadray.serving.scores import Scores, Wanted
from uadray.serving.services import Services
from uadray.serving.stages.endpoint_gauges import tell_on_and_on
from uadray.serving.stages.replica_logs import log_to_output
from uadray.serving.stages.slide_stage import DRAIN_S, GIVE_BACK_S, SlideStage, replicas_for
from uadray.serving.stages.stage_replica import Kind, StageReplica
from uadray.serving.stages.through_stages import ThroughStages
from uadray.serving.stages.view_stage import ReplicaViews, ViewStage
from uadray.storage import objects
from uadray.tiles.images import Pixels

STAGE_ONGOING, STAGE_TARGET = 16, 2
"""Requests in a replica of a stage: what is at work, what is joined next, and what travels; and so many are wanted.

Small requests are joined from what is there already: Serve's router looks for room again only after up to half a
second. With 4, twice the capacity in requests of 8 tiles was answered at 0.5 of the capacity; with 16, at 0.7.
"""

VIEW_ONGOING, VIEW_QUEUED = 16, 256
"""Pictures that a replica makes at a time, and those that wait for it: a page asks for fifty at once."""

READY_S = 5.0
"""Stages that do not say within so long that they are ready are not."""

KINDS: dict[str, Kind] = {
    "encoder": "MapStage", "generator": "ReconstructStage", "scorer": "ScoreStage", "detector": "AllStages",
}  # fmt: skip
"""Deployments by the field that configures each."""


class Ingress:
    """Takes requests over HTTP."""

    def __init__(
        self, config: ServeConfig, run: str, slides: DeploymentHandle, view: DeploymentHandle, *stages: DeploymentHandle
    ) -> None:  # fmt: skip
        log_to_output()
        self._through = ThroughStages(config, stages)
        self._jobs = Jobs(config.out)
        self._per_replica, self._wanted = config.slides_per_replica, 0.0
        self._registry = Registry(config.out, default=config.default_bundle)
        self._registry.put_configured(config.bundles)
        _claim_folder(config, self._registry.get())
        metrics.start_run(run, config.counted[:1], kind="serve", has_info=False)
        tell_on_and_on(config, self._registry, self._jobs)
        self._services = Services(
            config=config, access=Access(endpoint_tokens(config)), registry=self._registry, jobs=self._jobs,
            score=self.score, views=ReplicaViews(view), ready=self.ready,
        )  # fmt: skip

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The HTTP application; Serve calls this once the replica is built."""
        return build_http(self._services)

    async def score(self, bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
        """See `ThroughStages.score`."""
        return await self._through.score(bundle, pixels, wanted)

    async def ready(self) -> bool:
        """True once each stage has the bundle that scores where a request names none."""
        bundle = await asyncio.to_thread(self._registry.get)
        try:
            async with asyncio.timeout(READY_S):
                return await self._through.ready(bundle)
        except TimeoutError:
            return False

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """How many replicas' slides wait or are at work: this is told while there is none of `SlideStage`, too."""
        self._wanted = await asyncio.to_thread(replicas_for, self._jobs, self._per_replica, self._wanted)
        return {WANTED: self._wanted}


def _claim_folder(config: ServeConfig, bundle: RegisteredBundle) -> None:
    """Make the endpoint's folder the screening of the bundle that scores where a job names none, if it is nobody's."""
    if bundle.calibration is not None:
        claim_screening(config.out, [ScreeningBundle(bundle.uri, bundle.description, bundle.calibration)])


def build_app(args: ServeConfig) -> serve.Application:
    """The Serve application of a configuration.

    Raises:
        InputError: a bundle is none, or others can reach the endpoint and there is no token.
    """
    config = resolved(args, str(Path.cwd()))
    endpoint_tokens(config)
    return bound(config, preload=model_ids(config))


def bound(config: ServeConfig, *, preload: tuple[str, ...]) -> serve.Application:
    """The application; its stages load the bundles of these model ids before they take requests.

    All its replicas count for one run, which begins here.
    """
    run = f"serve-{secrets.token_hex(4)}"
    stages = [
        deployed(
            StageReplica, KINDS[field], stage, ongoing=STAGE_ONGOING, target=STAGE_TARGET,
            queued=config.max_queued_requests, user_config={"bundles": list(preload)},
        ).bind(
            KINDS[field], run=run, bundles=config.bundles_per_replica, threads=max(1, int(stage.cpus)),
            batch_tiles=stage.batch_tiles or config.batch_tiles,
        )
        for field, stage in config.stages.items()
    ]  # fmt: skip
    slides = deployed(SlideStage, "SlideStage", config.slide, shutdown_s=DRAIN_S + GIVE_BACK_S + 10.0, upscale_s=0.0)
    view = deployed(ViewStage, "ViewStage", config.view, ongoing=VIEW_ONGOING, queued=VIEW_QUEUED)
    ingress = deployed(
        serve.ingress()(Ingress), "Ingress", config.ingress, ongoing=config.max_ongoing_requests,
        queued=config.max_queued_requests,
    )  # fmt: skip
    return ingress.bind(config, run, slides.bind(config, run, *stages), view.bind(), *stages)


def resolved(config: ServeConfig, folder: str) -> ServeConfig:
    """The configuration with paths that do not depend on where a process runs."""

    def absolute(uris: Any) -> Any:
        return type(uris)(objects.resolve(uri, folder) for uri in uris)

    return config.model_copy(
        update={
            "out": objects.resolve(config.out, folder),
            "bundles": {name: objects.resolve(uri, folder) for name, uri in config.bundles.items()},
            "slides": absolute(config.slides),
            "bundle_sources": absolute(config.bundle_sources),
            "tokens": None if config.tokens is None else objects.resolve(config.tokens, folder),
        }
    )


def check_bundles(config: ServeConfig) -> dict[str, str]:
    """The id of each configured bundle, by its name.

    Raises:
        InputError: one is no bundle; or there would be no ingress.
    """
    if not config.ingress.replicas:
        raise InputError("ingress.replicas: one at least is needed; it tells how many slides wait")
    return {name: described_bundle(uri).id for name, uri in config.bundles.items()}


def model_ids(config: ServeConfig) -> tuple[str, ...]:
    """Model ids of the configured bundles, as many as a replica keeps.

    Raises:
        InputError: one is no bundle.
    """
    ids = [f"{bundle_id}@{config.bundles[name]}" for name, bundle_id in check_bundles(config).items()]
    return tuple(ids[: config.bundles_per_replica])


def deployed(
    cls: Any, name: str, stage: StageConfig, *, ongoing: int = 100, target: int | None = None, queued: int = -1,
    shutdown_s: float = 20.0, upscale_s: float = 3.0, user_config: dict[str, Any] | None = None,
) -> serve.Deployment:  # fmt: skip
    """A deployment.

    Args:
        cls: its class.
        name: its name.
        stage: its replicas and what they ask for. They scale between two numbers even where these are equal: only
            deployments that scale tell `scaling` how many slides wait.
        ongoing: requests in a replica.
        target: that a replica is wanted for; None takes half of those.
        queued: requests that wait at each sender; more are refused.
        shutdown_s: a replica that is to end has so long for what it is at.
        upscale_s: more replicas have been wanted for so long, before there are more.
        user_config: of the class's `reconfigure`.
    """
    return serve.deployment(
        cls,
        name=name,
        ray_actor_options={"num_cpus": stage.cpus, "num_gpus": stage.gpus},
        max_ongoing_requests=ongoing,
        max_queued_requests=queued,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        autoscaling_config={
            "min_replicas": stage.replicas,
            "max_replicas": stage.most,
            "target_ongoing_requests": target or max(1, ongoing // 2),
            "look_back_period_s": 15.0,
            "upscale_delay_s": upscale_s,
            "downscale_delay_s": 60.0,
        },
        user_config=user_config,
        graceful_shutdown_timeout_s=shutdown_s,
        max_surge_percent=50,
        rolling_update_percentage=0.5,
        health_check_period_s=5.0,
        health_check_timeout_s=30.0,
        max_constructor_retry_count=3,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},  # paths have ids of slides in them
    )
