"""`build_app` decorates and binds the deployments; `run` is `uadray serve`."""

import logging
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from uadray.cluster.connection import connect
from uadray.commands import console
from uadray.detectors.bundle import Bundle, read_bundle
from uadray.errors import InputError, WorkError
from uadray.serving.endpoints import RefusedError, build_http, digest
from uadray.serving.schemas import ServeConfig, StageConfig
from uadray.serving.stages import Encoder, Generator, Scorer, Scores, Whole
from uadray.storage import objects
from uadray.tiles.images import Pixels

APP = "uadray"
TOKEN = "UADRAY_TOKEN"  # noqa: S105 (the name of a variable)

STAGE_ONGOING = 2
"""Requests in a stage's replica: one at work, one whose arrays are already there."""

SPARE_S = 10.0
"""Serve's own timeout comes this much after ours, which answers in JSON."""

LOST = (RayActorError, ObjectLostError, RayServeException)
"""A replica or a node died. For one that died further up the chain Serve has no class but the last."""


class Ingress:
    """Takes requests over HTTP and sends their tiles through the stages."""

    def __init__(
        self, config: ServeConfig, bundle: Bundle, token_digest: str | None, *stages: DeploymentHandle
    ) -> None:
        self.config, self.bundle, self.token_digest, self.stages = config, bundle, token_digest, stages
        self._is_ready = False

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once the replica is built."""
        return build_http(
            self.config, self.bundle, token_digest=self.token_digest, score=self.score, ready=self.ready
        )  # fmt: skip

    async def score(self, pixels: Pixels, maps: bool = False) -> Scores:
        """Scores of RGB tiles [N, tile, tile, 3]. Asked again once where a replica died: scoring changes nothing.

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
            case (encoder, generator, scorer):
                x_hat = generator.remote(encoder.remote(pixels))
                scores: Scores = await scorer.remote(pixels, x_hat, maps=maps)
            case (whole,):
                scores = await whole.remote(pixels, maps=maps)
        return scores

    async def ready(self) -> bool:
        """True once every stage has answered with this bundle's id; Serve itself replaces those that die later."""
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
        InputError: no bundle there, or a host that others reach and no token.
    """
    token = _token(config)
    uri = objects.resolve(config.bundle, str(Path.cwd()))
    bundle = read_bundle(uri)
    if bundle.tiles.stain is not None:
        raise InputError(f"bundle {uri} normalises stain by slide; tiles that come alone cannot be scored with it")
    classes: list[Any] = [Whole] if config.one_replica else [Encoder, Generator, Scorer]
    stages = [
        _deployment(cls, stage, max_ongoing_requests=STAGE_ONGOING).bind(
            uri, bundle, threads=max(1, int(stage.cpus)), batch_tiles=config.batch_tiles
        )
        for cls, stage in zip(classes, config.stages.values(), strict=True)
    ]
    # the ingress counts for itself, and refuses in JSON; Serve's own limit leaves room for that and for /healthz
    room = config.max_ongoing_requests + config.max_queued_requests + 64
    ingress = _deployment(serve.ingress()(Ingress), config.ingress, max_ongoing_requests=room)
    return ingress.bind(config, bundle, digest(token) if token else None, *stages)


def _token(config: ServeConfig) -> str:
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


def run(config: ServeConfig) -> None:
    """Serve until Ctrl-C or SIGTERM; prints the URL, then one line of JSON, once requests can come.

    Raises:
        InputError: no bundle, a host without a token, a port in use, or more CPUs asked for than there are.
        WorkError: a replica could not be started.
    """
    app = build_app(config)
    is_own = not os.environ.get("RAY_ADDRESS")
    if is_own:
        _check_port(config)
    try:
        connect()
        _on_signals(_stop)  # after Ray, which has a handler of its own
        _start(app, config, is_own=is_own)
        url = f"http://{f'[{config.host}]' if ':' in config.host else config.host}:{config.port}"
        print(f"POST tiles to {url}/v1/tiles/score; Ctrl-C stops", flush=True)
        bundle_id = read_bundle(config.bundle).id
        console.result({"url": url, "bundle_id": bundle_id, "needs_token": bool(_token(config))})
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        logging.getLogger("uadray.serving").info("stopping: requests at work are finished first")
    finally:
        _on_signals(signal.SIG_IGN)
        _stop_serving()


def _start(app: serve.Application, config: ServeConfig, *, is_own: bool) -> None:
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if is_own:
        _check_cpus(config)
    options = HTTPOptions(host=config.host, port=config.port, request_timeout_s=config.request_timeout_s + SPARE_S)
    where = ProxyLocation.HeadOnly if config.is_loopback else ProxyLocation.EveryNode
    serve.start(proxy_location=where, http_options=options)
    found = _get_global_client().http_config
    if (found.host, found.port) != (config.host, config.port):
        raise InputError(
            f"Serve already runs on this cluster, on {found.host}:{found.port}; set host and port to these"
        )
    try:
        serve.run(app, name=APP, route_prefix="/")
    except RuntimeError as error:
        raise WorkError(f"the endpoint could not be started: {str(error).strip().splitlines()[-1]}") from error


def _stop_serving() -> None:
    """Take our application away, and Ray with it where this process started it; others in the cluster stay."""
    if ray.is_initialized():
        with suppress(RayServeException):  # Serve was not started yet
            serve.delete(APP)
        ray.shutdown()


def _check_cpus(config: ServeConfig) -> None:
    """A replica that asks for more than there is would be waited for, for ever."""
    stages = {"ingress": config.ingress, **config.stages}
    for resource, wanted in (
        ("CPU", {name: stage.cpus * stage.replicas for name, stage in stages.items()}),
        ("GPU", {name: stage.gpus * stage.replicas for name, stage in stages.items()}),
    ):
        there = ray.cluster_resources().get(resource, 0.0)
        if sum(wanted.values()) > there:
            parts = ", ".join(f"{name} {count:g}" for name, count in wanted.items())
            raise InputError(
                f"{sum(wanted.values()):g} {resource}s asked for ({parts}), {there:g} there; "
                f"lower {resource.lower()}s or replicas, or set one_replica: true"
            )


def _check_port(config: ServeConfig) -> None:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((config.host, config.port))
        except OSError as error:
            raise InputError(f"cannot listen on {config.host} port {config.port}: {error.strerror or error}") from error


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
