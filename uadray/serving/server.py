"""The application on a cluster: deployed by Serve's declarative interface, and taken away again."""

import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ServeDeploySchema

from uadray.errors import InputError, WorkError
from uadray.serving.access.tokens import TOKENS, Token
from uadray.serving.config import ServeConfig
from uadray.serving.deployment_file import DeploymentFile

ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "uadray.serving.stages.proxy_answers.middlewares",
    # a proxy that has died is replaced after three checks: with Serve's own 10 s nothing listens for half a minute
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # the controller looks at every replica ten times a second otherwise: a seventh of a core, all day
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}
"""Of Ray's processes. A cluster that is joined should have been started with them; a variable that is set stays."""

log = logging.getLogger("uadray.serving")

POLL_S = 0.25

TELL_S = 20.0
"""How often it is said what is waited for."""

STOP_S = 20.0
"""What is at work when the application ends has so long. A slide that is not done by then stays in the queue."""


def prepare() -> None:
    """Set the environment that Ray's processes get where Ray is started here; to be called before that."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def start(file: DeploymentFile, tokens: Sequence[Token] = ()) -> None:
    """Start Serve, and the application on it; returns once every replica is there.

    Only the declarative interface takes a policy for the whole application.

    Args:
        file: what is deployed.
        tokens: of this process's environment, for replicas on other machines, which do not have it.

    Raises:
        InputError: Serve already runs on this cluster, and listens elsewhere.
        WorkError: a replica could not be started.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    values = file.for_serve()
    if tokens:
        environment = values["applications"][0]["runtime_env"].setdefault("env_vars", {})
        environment[TOKENS] = hashed(tokens)
    serve.start(
        proxy_location=file.proxy_location,
        http_options=HTTPOptions(**values["http_options"]),
        logging_config=values["logging_config"],
    )
    client = _client()
    host, port = client.http_config.host, client.http_config.port
    if (host, port) != (file.http_options.host, file.http_options.port):
        raise InputError(
            f"Serve already runs on this cluster, on {host}:{port}; set http_options.host and port to these"
        )
    client.deploy_apps(ServeDeploySchema.model_validate(values))
    _wait_until_running(file.applications[0].name)


def hashed(tokens: Sequence[Token]) -> str:
    """Tokens as a value of `UADRAY_TOKENS` that does not reveal them."""
    entries = [{"name": token.name, "scopes": sorted(token.scopes), "sha256": token.digest} for token in tokens]
    expiries = [{"expires": token.expires.isoformat()} if token.expires else {} for token in tokens]
    return json.dumps([entry | expires for entry, expires in zip(entries, expiries, strict=True)])


def _wait_until_running(name: str) -> None:
    told = time.monotonic()
    while True:
        status = serve.status().applications.get(name)
        if status is not None and status.status == "RUNNING":
            return
        if status is not None and status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise WorkError(f"the endpoint could not be started: {_reason(status)}")
        if status is not None and time.monotonic() - told > TELL_S:
            told = time.monotonic()
            waited_for = [name for name, d in status.deployments.items() if d.status != "HEALTHY"]
            log.info("waiting for replicas of %s", ", ".join(waited_for) or "the application")
        time.sleep(POLL_S)


def _reason(status: Any) -> str:
    """What went wrong, in one line: the last one of the deployment that failed, else of the application."""
    messages = [d.message for d in status.deployments.values() if d.status in ("DEPLOY_FAILED", "UNHEALTHY")]
    lines = [line.strip() for line in (messages or [status.message])[0].splitlines() if line.strip()]
    return lines[-1] if lines else "its log says why"


def stop(name: str) -> None:
    """Remove the application, and end Ray where this process started it; what others run on the cluster stays."""
    if not ray.is_initialized():
        return
    with suppress(RayServeException):  # Serve was not started yet
        serve.delete(name, _blocking=False)
        until = time.monotonic() + STOP_S
        while name in serve.status().applications and time.monotonic() < until:
            time.sleep(POLL_S)
    ray.shutdown()


def check_resources(config: ServeConfig) -> None:
    """Refuse replicas that ask for more than the cluster has: Serve would wait for them without an end.

    Raises:
        InputError: more CPUs or GPUs asked for than there are.
    """
    stages = {"ingress": config.ingress, "slide": config.slide, "view": config.view, **config.stages}
    for resource, wanted in (
        ("CPU", {name: stage.cpus * stage.replicas for name, stage in stages.items()}),
        ("GPU", {name: stage.gpus * stage.replicas for name, stage in stages.items()}),
    ):
        available = ray.cluster_resources().get(resource, 0.0)
        if sum(wanted.values()) > available:
            parts = ", ".join(f"{name} {count:g}" for name, count in wanted.items() if count)
            raise InputError(
                f"{sum(wanted.values()):g} {resource}s asked for ({parts}), {available:g} there; "
                f"lower {resource.lower()}s or replicas, or set one_replica: true"
            )


def is_own_ray() -> bool:
    """Whether Ray is started here, and no cluster joined."""
    return not os.environ.get("RAY_ADDRESS")


def _client() -> Any:
    """Serve's client, which deploys declaratively and knows where Serve listens. Ray has no public name for it."""
    return _get_global_client()
