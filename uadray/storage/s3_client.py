"""Connections to S3 and to servers with its API.

Endpoint, region and credentials are what boto3 finds (environment, `~/.aws`, profiles, instance roles); where it finds
no credentials, requests go out unsigned. Connections are kept per process and environment, and are never pickled.
"""

import os
import random
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from uadray.errors import AccessError

if TYPE_CHECKING:
    from obstore.store import S3Store

IN_FLIGHT = 32  # ranged GETs at once and process: about 1,900 a second against 270 one after the other
TRIES = 5
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
_BACKOFF = timedelta(seconds=0.3)  # 0.3, 0.6, ... 4.8 s: a server that restarts is back by then
LONG_RETRY_S = 120.0
"""How long to wait for a server that has answered before: a job survives a restart of its storage."""
_LONG_RETRY_WAIT_S = 5.0
_CREDENTIAL_TTL = timedelta(minutes=10)  # botocore renews 15 minutes before the end: never hand out older ones
_NO_PROXY = "http://127.0.0.1:0"
"""Nothing can listen on port 0."""
_FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
_lock = threading.RLock()
_Process = tuple[int, tuple[tuple[bytes, bytes], ...]]
_Settings = tuple[int, tuple[tuple[bytes, bytes], ...], tuple[int, ...]]
_answered: set[_Process] = set()
_obstore_pids: set[int] = set()
"""Processes that this one is, or descends from by forks, and that use obstore."""


@dataclass(frozen=True)
class Connection:
    """A boto3 client, and what its session has resolved. `credentials` is None if requests are unsigned."""

    session: Any
    client: Any
    credentials: Any
    ca_bundle: str | None

    @property
    def endpoint(self) -> str:
        """The URL that requests go to."""
        return str(self.client.meta.endpoint_url)

    @property
    def virtual_hosts(self) -> bool:
        """Whether the configuration asks for `bucket.endpoint` instead of `endpoint/bucket`."""
        return (self.client.meta.config.s3 or {}).get("addressing_style") == "virtual"

    @property
    def is_amazon(self) -> bool:
        """Whether requests go to Amazon, as they do unless another endpoint is configured."""
        return _is_amazon(self.endpoint)

    def bucket_endpoint(self, bucket: str) -> tuple[str, str]:
        """Return endpoint and region of a bucket: boto3 follows Amazon's redirects between regions, others do not."""
        from botocore.exceptions import ClientError

        region = str(self.client.meta.region_name or "us-east-1")
        if not (self.is_amazon and (urlsplit(self.endpoint).hostname or "").startswith("s3.")):
            return self.endpoint, region
        try:
            answer = self.client.head_bucket(Bucket=bucket)
        except ClientError as error:
            answer = error.response
        home = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", region)
        return str(self.session.client("s3", region_name=home).meta.endpoint_url), home


def _process() -> _Process:
    """Return what a server is known to answer: this process (a fork is another) with these variables."""
    return os.getpid(), tuple(sorted(item for item in os.environb.items() if item[0].startswith(b"AWS_")))


def _settings() -> _Settings:
    """Return what a connection depends on: if the variables, the files or the process change, a new one is made."""
    return *_process(), tuple(_changed_ns(name) for name in _FILES)


def _changed_ns(variable: str) -> int:
    """Return when a file of boto3's was last written; 0 if there is none."""
    try:
        return os.stat(os.path.expanduser(os.environ.get(variable, _FILES[variable]))).st_mtime_ns  # noqa: PTH116, PTH111
    except OSError:
        return 0


def connect() -> Connection:
    """Return this process's connection.

    Raises:
        AccessError: the profile does not exist, or credentials are incomplete.
    """
    with _lock:
        return _connect(_settings())


@lru_cache(maxsize=8)
def _connect(settings: _Settings) -> Connection:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError
    from botocore.session import get_session

    options: dict[str, Any] = {
        "retries": {"mode": "standard", "max_attempts": TRIES},
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "max_pool_connections": IN_FLIGHT,
    }
    try:
        core = get_session()  # made here, since boto3's session does not show its settings
        session = boto3.Session(botocore_session=core)
        credentials = session.get_credentials()
        if credentials is None:
            options["signature_version"] = UNSIGNED
        client = session.client("s3", config=Config(**options))
        client.meta.events.register_first("needs-retry.s3", _LongRetry(settings))
        ca_bundle = core.get_config_variable("ca_bundle")
    except (BotoCoreError, ValueError) as error:
        raise AccessError(
            f"S3 cannot be set up: {one_line(error)}; check AWS_PROFILE, ~/.aws and AWS_ENDPOINT_URL"
        ) from error
    return Connection(session, client, credentials, ca_bundle)


def has_answered() -> bool:
    """Tell whether the server has answered this process, or is known to answer another (`assume_reachable`)."""
    return _process() in _answered


def assume_reachable() -> None:
    """Wait long for the server from the first request on: the process that started this one has reached it."""
    _answered.add(_process())


class _LongRetry:
    """Makes botocore send requests again for `LONG_RETRY_S` to a server that has answered before."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings

    def __call__(
        self, attempts: int, request_dict: dict[str, Any], response: Any = None,
        caught_exception: Exception | None = None, **_: Any,
    ) -> float | None:  # fmt: skip
        """Return the seconds until the next try; None leaves the decision to botocore."""
        from botocore.exceptions import ConnectionError as NoConnectionError
        from botocore.exceptions import HTTPClientError

        if response is not None:
            _refuse_redirect(response[0].status_code, request_dict)
        if response is not None and (response[0].status_code < 500 or response[0].status_code == 501):
            _answered.add(self._settings[:2])
            return None
        failing_since = request_dict["context"].setdefault("uadray_failing_since", time.monotonic())
        is_network = caught_exception is None or isinstance(caught_exception, (HTTPClientError, NoConnectionError))
        if not is_network or self._settings[:2] not in _answered or time.monotonic() - failing_since > LONG_RETRY_S:
            return None
        return min(_LONG_RETRY_WAIT_S, _BACKOFF.total_seconds() * 2.0 ** (attempts - 1)) * random.uniform(0.5, 1)  # noqa: S311


def _refuse_redirect(status: int, request_dict: dict[str, Any]) -> None:
    """Raise where a server other than Amazon's sends a request elsewhere: botocore would ask it for ever after where.

    Amazon's own redirects name a region, of which botocore makes the address itself.
    """
    from botocore.exceptions import ClientError

    if 300 <= status < 400 and status != 304 and not _is_amazon(request_dict["url"]):
        error = {"Code": "PermanentRedirect", "Message": "it redirects to another address, which is not followed"}
        raise ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, "request")


def _is_amazon(url: str) -> bool:
    return (urlsplit(url).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def obstore_works() -> bool:
    """Tell whether this process may use obstore: a fork of a process that did has lost its threads and would hang."""
    _obstore_pids.add(os.getpid())
    return len(_obstore_pids) == 1


def object_store(bucket: str, *, retry: bool) -> "S3Store":
    """Return obstore's side of the same connection. With `retry` requests that fail are sent again, by obstore."""
    with _lock:
        return _make_store(bucket, _settings(), retry)


@lru_cache(maxsize=64)
def _bucket_endpoint(bucket: str, settings: _Settings) -> tuple[str, str]:
    return _connect(settings).bucket_endpoint(bucket)


@lru_cache(maxsize=128)
def _make_store(bucket: str, settings: _Settings, retry: bool) -> "S3Store":
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    connection = _connect(settings)
    endpoint, region = _bucket_endpoint(bucket, settings)
    signed: dict[str, Any] = {"skip_signature": True}
    if connection.credentials is not None:
        provider = Boto3CredentialProvider(connection.session, ttl=_CREDENTIAL_TTL)
        signed = {"credential_provider": provider, "skip_signature": False}
    client_options: dict[str, Any] = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": f"{_CONNECT_TIMEOUT_S}s",
        "timeout": f"{_READ_TIMEOUT_S}s",
        "pool_max_idle_per_host": str(IN_FLIGHT),
    }
    if connection.ca_bundle:
        client_options["root_certificate"] = Path(connection.ca_bundle).read_bytes()
    if connection.virtual_hosts:
        endpoint = endpoint.replace("://", f"://{bucket}.", 1)
    client_options |= _confined(endpoint)
    return S3Store(
        bucket,
        endpoint=endpoint,
        region=region,
        virtual_hosted_style_request=connection.virtual_hosts,
        client_options=client_options,  # type: ignore[arg-type]
        retry_config={
            "max_retries": TRIES if retry else 0,
            "retry_timeout": timedelta(seconds=_READ_TIMEOUT_S),
            "backoff": {"init_backoff": _BACKOFF, "base": 2, "max_backoff": 16 * _BACKOFF},
        },
        **signed,
    )


def _confined(endpoint: str) -> dict[str, str]:
    """Options of obstore that let it reach the host of an endpoint alone.

    It follows redirects, and has no option against it: a store could have it read what this machine reaches and others
    do not, as the address that gives clouds' credentials. Requests to any other host go to a proxy that is not there,
    fail, and are sent again by boto3, which does not follow. Where requests go through a proxy anyway, it decides.
    """
    host = urlsplit(endpoint).hostname or ""
    proxies = getproxies()
    if (proxies.get(urlsplit(endpoint).scheme) or proxies.get("all")) and not proxy_bypass(host):
        return {}
    return {"proxy_url": _NO_PROXY, "proxy_excludes": host}


def one_line(error: Exception) -> str:
    """Shorten an error of a library to its first words."""
    return " ".join(str(error).split("Debug source")[0].split())[:300]
