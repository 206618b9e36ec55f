"""A running endpoint for benchmarks, deployed as `serve deploy` does, on a Ray that this process started.

So this process sees what Serve says of the replicas, and knows the process of each.
"""

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from uadray.bench.processes import descendants, title
from uadray.bench.seaweed import free_port
from uadray.cluster.connection import ENVIRONMENT
from uadray.config import parse_config
from uadray.errors import WorkError
from uadray.serving.deployment_file import DeploymentFile

TOKEN = "bench"  # noqa: S105 - of an endpoint on this machine alone

STAGES = ("MapStage", "ReconstructStage", "ScoreStage", "AllStages")
DEPLOYMENTS = ("Ingress", *STAGES, "SlideStage", "ViewStage")

PROXY = "ray::ProxyActor"
"""How Ray titles the process that listens."""

START_S = 180.0

Value = TypeVar("Value")


@dataclass(frozen=True)
class Answer:
    """What the endpoint answered.

    Attributes:
        status: 0 where the connection was refused, or broke.
        headers: by their names in lower case.
        body: as it came.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class Endpoint:
    """A running endpoint.

    Attributes:
        port: where it listens, on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    def deploy(self, arguments: dict[str, Any], options: dict[str, dict[str, Any]] | None = None) -> None:
        """Deploy as a deployment file says; of an endpoint that runs, what differs is changed.

        Args:
            arguments: of the application, see `ServeConfig`.
            options: Serve's own, by deployment.
        """
        from uadray.serving import server  # imports Ray

        file = deployment(self.port, arguments, options)
        server.start(parse_config(DeploymentFile, file, source="the bench's own endpoint"))

    def ask(
        self, path: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> Answer:  # fmt: skip
        """Send a JSON value, or bytes as they are, with the token; GET where there is no body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"} | (headers or {})
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, data, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except (OSError, http.client.HTTPException):
            return Answer(0, {}, b"")
        finally:
            connection.close()

    def pids(self, deployment: str) -> list[int]:
        """The processes of a deployment's replicas, or of `PROXY`."""
        wanted = deployment if deployment.startswith("ray::") else f"ray::ServeReplica:uadray:{deployment}"
        return [pid for pid in descendants(os.getpid()) if title(pid).split("::handle")[0].startswith(wanted)]

    def wait_ready(self, seconds: float = START_S) -> None:
        """Wait until it answers that it is ready.

        Raises:
            WorkError: it does not become so.
        """
        self.wait(lambda: self.ask("/readyz", timeout_s=5).status == 200, seconds, "readiness")

    def wait(self, condition: Callable[[], Value | None], seconds: float, what: str, *, every_s: float = 0.1) -> Value:
        """The first true value of a condition.

        Raises:
            WorkError: none came.
        """
        until = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > until:
                raise WorkError(f"the bench's own endpoint: no {what} within {seconds:g} s; {_state()}")
            time.sleep(every_s)
        return value


def deployment(
    port: int, arguments: dict[str, Any], options: dict[str, dict[str, Any]] | None = None
) -> dict[str, Any]:  # fmt: skip
    """What a deployment file says; see `Endpoint.deploy`."""
    application = {
        "name": "uadray", "route_prefix": "/", "import_path": "uadray.serving.app:build_app", "args": arguments,
        "deployments": [{"name": name, **each} for name, each in (options or {}).items()],
        "autoscaling_policy": {"policy_function": "uadray.serving.scaling:follow_slides"},
    }  # fmt: skip
    listens = {"host": "127.0.0.1", "port": port}
    return {"proxy_location": "HeadOnly", "http_options": listens, "applications": [application]}


@contextmanager
def running_endpoint(
    arguments: dict[str, Any], *, options: dict[str, dict[str, Any]] | None = None, cpus: int | None = None
) -> Iterator[Endpoint]:
    """An endpoint for a `with` block, on a Ray of this process with so many CPUs, ready to answer."""
    import ray

    from uadray.serving import server  # imports Ray

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    server.prepare()
    os.environ["UADRAY_TOKEN"] = TOKEN
    os.environ.pop("RAY_ADDRESS", None)
    ray.init(
        address="local", num_cpus=cpus or max(2, os.cpu_count() or 2), include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    try:
        endpoint = Endpoint(free_port())
        endpoint.deploy(arguments, options)
        endpoint.wait_ready()
        yield endpoint
    finally:
        ray.shutdown()


def _state() -> str:
    """What Serve says of the application."""
    from ray import serve

    return str(serve.status().applications)


def submitted(endpoint: Endpoint, slides: Sequence[dict[str, Any]]) -> list[str]:
    """The ids of the jobs of these slides, each sent until it is accepted."""
    return [_submitted(endpoint, slide) for slide in slides]


def _submitted(endpoint: Endpoint, slide: dict[str, Any]) -> str:
    key = {"Idempotency-Key": f"bench-{slide['slide_id']}"}

    def job() -> str | None:
        answer = endpoint.ask("/v1/slides", slide, headers=key)
        if answer.status not in (0, 202, 429, 503):
            raise WorkError(f"the bench's own slide: {answer.status} {answer.body[:300]!r}")
        return str(answer.json["id"]) if answer.status == 202 else None

    return endpoint.wait(job, 60, "accepted slide job")
