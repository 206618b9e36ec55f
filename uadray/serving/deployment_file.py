"""The file that an endpoint is deployed from: Serve's own layout, checked more strictly than Serve does.

`uadray serve FILE` and `serve deploy FILE` take the same file. Serve ignores a field that it does not know; here a typo
is refused, with the name it is near. Only what an endpoint needs of Serve's fields is known here.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from uadray.config import Config, apply_override, parse_config, read_mapping
from uadray.errors import InputError
from uadray.serving.access.hosts import is_loopback
from uadray.serving.config import ServeConfig

DeploymentName = Literal[
    "Ingress", "MapStage", "ReconstructStage", "ScoreStage", "AllStages", "SlideStage", "ViewStage"
]  # fmt: skip


class HttpOptions(Config):
    """Where Serve listens; fields as of Serve.

    Attributes:
        host: address; it has to be named, since Serve would listen on every one.
        port: of the host.
        root_path: prefix that a proxy in front takes off.
        keep_alive_timeout_s: of a connection without a request.
        request_timeout_s: never: it would end streams of events. `args.request_timeout_s` ends requests.
        ssl_keyfile: with `ssl_certfile`, TLS. Paths on every node that has a proxy.
        ssl_certfile: see above.
        ssl_keyfile_password: of the key.
        ssl_ca_certs: to ask clients for certificates.
    """

    host: str = Field(min_length=1)
    port: int = Field(default=8000, ge=1, le=65535)
    root_path: str = ""
    keep_alive_timeout_s: int = Field(default=90, ge=1)
    request_timeout_s: None = None
    ssl_keyfile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile_password: str | None = Field(default=None, repr=False)
    ssl_ca_certs: str | None = None

    @field_validator("request_timeout_s", mode="before")
    @classmethod
    def _never(cls, value: Any) -> None:
        if value is not None:
            raise ValueError("it would end streams of events; set request_timeout_s of args")


class LoggingOptions(Config):
    """What Serve logs; fields as of Serve.

    Attributes:
        encoding: of a line.
        log_level: and above.
        logs_dir: instead of Ray's.
        enable_access_log: never: paths have ids of slides in them. uadray writes audit lines instead.
        additional_log_standard_attrs: attributes of Python's log records that lines have too.
    """

    encoding: Literal["TEXT", "JSON"] = "TEXT"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    logs_dir: str | None = None
    enable_access_log: bool = False
    additional_log_standard_attrs: tuple[str, ...] = ()

    @field_validator("enable_access_log")
    @classmethod
    def _never(cls, value: bool) -> bool:
        if value:
            raise ValueError("it would write ids of slides; uadray writes audit lines of its own")
        return value


class GrpcOptions(Config):
    """Serve's gRPC side, which an endpoint does not use; fields as of Serve."""

    port: int = Field(default=9000, ge=1, le=65535)
    grpc_servicer_functions: tuple[str, ...] = ()
    request_timeout_s: float | None = None
    enable_reflection: bool = True


class Policy(Config):
    """How replicas follow slides that wait; Serve knows the place and uadray the function."""

    policy_function: Literal["uadray.serving.scaling:follow_slides"] = "uadray.serving.scaling:follow_slides"


class ActorOptions(Config):
    """What a replica asks of the cluster; fields as of Serve.

    Serve takes this in the place of what `args` says, CPUs and GPUs included: they have to be named.
    """

    num_cpus: float = Field(ge=0)
    num_gpus: float = Field(ge=0)
    memory: float | None = Field(default=None, gt=0)
    resources: dict[str, float] | None = None
    accelerator_type: str | None = None
    label_selector: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None


class AutoscalingOptions(Config):
    """How many replicas there are, and how fast they come and go; fields as of Serve.

    Serve takes this in the place of what `args` says: without them there would be one replica, always.
    """

    min_replicas: int = Field(ge=0)
    max_replicas: int = Field(ge=1)
    initial_replicas: int | None = Field(default=None, ge=0)
    target_ongoing_requests: float | None = Field(default=None, gt=0)
    look_back_period_s: float | None = Field(default=None, gt=0)
    upscale_delay_s: float | None = Field(default=None, ge=0)
    downscale_delay_s: float | None = Field(default=None, ge=0)
    downscale_to_zero_delay_s: float | None = Field(default=None, ge=0)
    upscaling_factor: float | None = Field(default=None, gt=0)
    downscaling_factor: float | None = Field(default=None, gt=0)
    aggregation_function: Literal["mean", "max", "min"] | None = None
    metrics_interval_s: float | None = Field(default=None, gt=0)


class Backpressure(Config):
    """What a full queue answers; fields as of Serve."""

    status_code: Literal[429, 503] = 429
    retry_after_s: float | None = Field(default=1, ge=0)


class DeploymentOptions(Config):
    """Options of one deployment, over those that `app` gives it; fields as of Serve, see its documentation."""

    name: DeploymentName
    autoscaling_config: AutoscalingOptions | None = None
    ray_actor_options: ActorOptions | None = None
    max_ongoing_requests: int | None = Field(default=None, ge=1)
    max_queued_requests: int | None = Field(default=None, ge=-1)
    backpressure_config: Backpressure | None = None
    graceful_shutdown_wait_loop_s: float | None = Field(default=None, ge=0)
    graceful_shutdown_timeout_s: float | None = Field(default=None, ge=0)
    health_check_period_s: float | None = Field(default=None, gt=0)
    health_check_timeout_s: float | None = Field(default=None, gt=0)
    max_replicas_per_node: int | None = Field(default=None, ge=1, le=100)
    max_surge_percent: int | None = Field(default=None, ge=0, le=100)
    rolling_update_percentage: float | None = Field(default=None, gt=0, le=1)
    logging_config: LoggingOptions | None = None


class Application(Config):
    """The endpoint as an application of Serve.

    Attributes:
        name: of the application.
        route_prefix: always `/`: the page and the API have fixed paths.
        import_path: of the builder.
        runtime_env: of Ray, for all replicas.
        autoscaling_policy: None scales each deployment by its requests alone, and slides not at all.
        args: of the builder.
        deployments: options over those that `args` makes.
    """

    name: str = Field(default="uadray", min_length=1)
    route_prefix: Literal["/"] = "/"
    import_path: Literal["uadray.serving.app:build_app"] = "uadray.serving.app:build_app"
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    autoscaling_policy: Policy | None = None
    args: ServeConfig
    deployments: tuple[DeploymentOptions, ...] = ()


class DeploymentFile(Config):
    """The whole file.

    Attributes:
        proxy_location: where Serve listens: on the head alone, or on every node with a replica.
        http_options: how it listens.
        grpc_options: not used.
        logging_config: of Serve.
        applications: one.
    """

    proxy_location: Literal["HeadOnly", "EveryNode"] = "EveryNode"
    http_options: HttpOptions
    grpc_options: GrpcOptions = GrpcOptions()
    logging_config: LoggingOptions = LoggingOptions()
    applications: tuple[Application]

    @property
    def args(self) -> ServeConfig:
        """The configuration of the endpoint."""
        return self.applications[0].args

    @property
    def url(self) -> str:
        """Where it can be reached from the machine that it listens on."""
        host = self.http_options.host
        scheme = "https" if self.http_options.ssl_certfile else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.http_options.port}"

    def with_args(self, args: ServeConfig) -> "DeploymentFile":
        """The same file with another configuration."""
        return self.model_copy(update={"applications": (self.applications[0].model_copy(update={"args": args}),)})

    def for_serve(self) -> dict[str, Any]:
        """The file as Serve takes it."""
        return self.model_dump(mode="json", exclude_none=True)


def load_deployment_file(path: str | Path, overrides: Sequence[str] = ()) -> DeploymentFile:
    """Read and check a file.

    Args:
        path: of the file.
        overrides: `http_options.port=9000` sets a field of the file, `name=a` one of the application, and every other
            name, as in `out=folder` or `detector.cpus=2`, one of `args`.

    Raises:
        InputError: in one line, see `uadray.config.load_config`.
    """
    values = read_mapping(path)
    for override in overrides:
        apply_override(_place_of(override, values), override)
    file = parse_config(DeploymentFile, values, source=f"configuration {path}")
    _check(file, source=f"configuration {path}")
    return file


def _check(file: DeploymentFile, *, source: str) -> None:
    """What no field by itself can say.

    Raises:
        InputError: it is answered without a token, and not this machine alone; or half of what TLS needs is there.
    """
    options = file.http_options
    if (options.ssl_keyfile is None) != (options.ssl_certfile is None):
        raise InputError(f"{source}: TLS needs both http_options.ssl_keyfile and http_options.ssl_certfile")
    if file.args.insecure and not is_loopback(options.host):
        raise InputError(
            f"{source}: insecure answers without a token, and {options.host} can be reached from elsewhere; "
            "give tokens, or listen on 127.0.0.1"
        )
    known = _deployments(file.args)
    for name in (options.name for options in file.applications[0].deployments):
        if name not in known:
            raise InputError(f"{source}: deployments: there is no {name} with one_replica: {file.args.one_replica}")


def _deployments(args: ServeConfig) -> set[str]:
    stages = {"AllStages"} if args.one_replica else {"MapStage", "ReconstructStage", "ScoreStage"}
    return stages | {"Ingress", "SlideStage", "ViewStage"}


def _place_of(override: str, values: dict[str, Any]) -> dict[str, Any]:
    """The mapping that an override is about."""
    first = override.partition("=")[0].partition(".")[0]
    names = [*DeploymentFile.model_fields, *Application.model_fields, *ServeConfig.model_fields]
    if first not in names:
        near = difflib.get_close_matches(first, names, n=1, cutoff=0.5)
        raise InputError(f"--set {override}: no such field" + (f"; did you mean {near[0]}?" if near else ""))
    if first in DeploymentFile.model_fields:
        return values
    applications = values.get("applications")
    if not isinstance(applications, list) or not applications or not isinstance(applications[0], dict):
        raise InputError(f"--set {override}: the file has no application")
    application: dict[str, Any] = applications[0]
    if first in Application.model_fields:
        return application
    args = application.setdefault("args", {})
    if not isinstance(args, dict):
        raise InputError(f"--set {override}: args is a value, it has no fields")
    return args
