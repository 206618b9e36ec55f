"""The application on a cluster: started on a Serve that listens where the configuration says, and taken away again."""

import logging
from contextlib import suppress

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from uadray.errors import InputError, WorkError
from uadray.serving.config import ServeConfig

APP = "uadray"

SPARE_S = 10.0
"""Serve's own timeout comes this much after ours, which answers in JSON."""


def start(app: serve.Application, config: ServeConfig) -> None:
    """Start Serve, and the application on it; returns once every replica is there.

    Raises:
        InputError: Serve already runs on this cluster, and listens elsewhere.
        WorkError: a replica could not be started.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    options = HTTPOptions(host=config.host, port=config.port, request_timeout_s=config.request_timeout_s + SPARE_S)
    location = ProxyLocation.HeadOnly if config.is_loopback else ProxyLocation.EveryNode
    serve.start(proxy_location=location, http_options=options)
    host, port = listening_at()
    if (host, port) != (config.host, config.port):
        raise InputError(f"Serve already runs on this cluster, on {host}:{port}; set host and port to these")
    try:
        serve.run(app, name=APP, route_prefix="/")
    except RuntimeError as error:
        raise WorkError(f"the endpoint could not be started: {str(error).strip().splitlines()[-1]}") from error


def stop() -> None:
    """Remove the application, and end Ray where this process started it; what others run on the cluster stays."""
    if ray.is_initialized():
        with suppress(RayServeException):  # Serve was not started yet
            serve.delete(APP)
        ray.shutdown()


def check_resources(config: ServeConfig) -> None:
    """Refuse replicas that ask for more than the cluster has: Serve would wait for them without an end.

    Raises:
        InputError: more CPUs or GPUs asked for than there are.
    """
    stages = {"ingress": config.ingress, **config.stages}
    for resource, wanted in (
        ("CPU", {name: stage.cpus * stage.replicas for name, stage in stages.items()}),
        ("GPU", {name: stage.gpus * stage.replicas for name, stage in stages.items()}),
    ):
        available = ray.cluster_resources().get(resource, 0.0)
        if sum(wanted.values()) > available:
            parts = ", ".join(f"{name} {count:g}" for name, count in wanted.items())
            raise InputError(
                f"{sum(wanted.values()):g} {resource}s asked for ({parts}), {available:g} there; "
                f"lower {resource.lower()}s or replicas, or set one_replica: true"
            )


def listening_at() -> tuple[str, int]:
    """The host and port of the Serve that runs on this cluster. Ray has no public name for them."""
    options = _get_global_client().http_config
    return options.host, options.port
