"""How S3, and whatever speaks its language, is reached: connections, and what their errors mean to people.

Endpoint, region and credentials are what boto3 finds (environment, `~/.aws`, profiles, instance roles); where it finds
no credentials, requests go out unsigned. Connections are kept per process and environment, and are never pickled.
"""

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from uadray.errors import (
    AccessError,
    ChangedError,
    InputError,
    NoBucketError,
    NotFoundError,
    UadrayError,
    UnreachableError,
)
from uadray.storage.uris import split_s3

if TYPE_CHECKING:
    from obstore.store import S3Store

IN_FLIGHT = 32  # ranged GETs at once and process: about 1,900 a second against 270 one after the other
_TRIES = 5
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
_BACKOFF = timedelta(seconds=0.3)  # 0.3, 0.6, ... 4.8 s: a server that restarts is back by then
LONG_RETRY_S = 120.0
"""For so long a server that has answered before is waited for: a job outlasts the restart of its storage."""
_LONG_RETRY_WAIT_S = 5.0
_CREDENTIAL_TTL = timedelta(minutes=10)  # botocore renews 15 minutes before the end: never hand out older ones
_RENEW = "the session token has expired: renew it (`aws sso login`, or new temporary keys)"
_REGION = "set AWS_DEFAULT_REGION to the bucket's region, and AWS_ENDPOINT_URL to the server that has it"
_ADVICE = {
    "ExpiredToken": _RENEW,
    "ExpiredTokenException": _RENEW,
    "TokenRefreshRequired": _RENEW,
    "RequestExpired": _RENEW,
    "InvalidToken": "the session token does not belong to these keys: set all three anew, or unset it",
    "InvalidAccessKeyId": "the server does not know this key id",
    "SignatureDoesNotMatch": "the secret is not that of the key id",
    "RequestTimeTooSkewed": "this machine's clock is wrong by minutes: start chrony or systemd-timesyncd",
    "AuthorizationHeaderMalformed": _REGION,
    "AuthorizationQueryParametersError": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    "InvalidRegion": _REGION,
}
"""What to do about an error code that is about who asks, when and where, and never about the object."""

_FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
_lock = threading.RLock()
_Settings = tuple[int, tuple[tuple[str, str], ...], tuple[int, ...]]
_answered: set[tuple[int, tuple[tuple[str, str], ...]]] = set()


@dataclass(frozen=True)
class Connection:
    """A boto3 session's client and what the session has resolved. `credentials` is None where requests are unsigned."""

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
        """Whether the configuration insists on `bucket.endpoint` instead of `endpoint/bucket`."""
        return (self.client.meta.config.s3 or {}).get("addressing_style") == "virtual"

    @property
    def is_amazon(self) -> bool:
        """Whether requests go to Amazon, as they do where nobody has named another endpoint."""
        return (urlsplit(self.endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))

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


def _settings() -> _Settings:
    """What a connection depends on: a change of environment or of the credential files, or a fork, makes a new one."""
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    return os.getpid(), environment, tuple(_changed_ns(name) for name in _FILES)


def _changed_ns(variable: str) -> int:
    """When a file of boto3's was last written; 0 where there is none."""
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
        "retries": {"mode": "standard", "max_attempts": _TRIES},
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "max_pool_connections": IN_FLIGHT,
    }
    try:
        core = get_session()  # made here, as boto3's own does not tell of its settings
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
    """Whether the server has ever answered this process, or is known to answer others."""
    return _settings()[:2] in _answered


def assume_reachable() -> None:
    """Wait for the server from the first request on: whoever started this process has reached it under this name."""
    _answered.add(_settings()[:2])


class _LongRetry:
    """Has requests sent again for `LONG_RETRY_S`, beyond botocore's own tries, to a server that has answered before."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings

    def __call__(
        self, attempts: int, request_dict: dict[str, Any], response: Any = None,
        caught_exception: Exception | None = None, **_: Any,
    ) -> float | None:  # fmt: skip
        """Return the seconds until the next try; None leaves the decision to botocore."""
        from botocore.exceptions import ConnectionError as NoConnectionError
        from botocore.exceptions import HTTPClientError

        if response is not None and (response[0].status_code < 500 or response[0].status_code == 501):
            _answered.add(self._settings[:2])
            return None
        began = request_dict["context"].setdefault("uadray_trouble_began", time.monotonic())
        odd = caught_exception is not None and not isinstance(caught_exception, (HTTPClientError, NoConnectionError))
        if odd or self._settings[:2] not in _answered or time.monotonic() - began > LONG_RETRY_S:
            return None
        return min(_LONG_RETRY_WAIT_S, _BACKOFF.total_seconds() * 2.0 ** (attempts - 1)) * random.uniform(0.5, 1)  # noqa: S311


def object_store(bucket: str) -> "S3Store":
    """Return obstore's side of the same connection, for ranged reads."""
    with _lock:
        return _make_store(bucket, _settings())


@lru_cache(maxsize=64)
def _make_store(bucket: str, settings: object) -> "S3Store":
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    connection = _connect(settings)
    endpoint, region = connection.bucket_endpoint(bucket)
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
    return S3Store(
        bucket,
        endpoint=endpoint,
        region=region,
        virtual_hosted_style_request=connection.virtual_hosts,
        client_options=client_options,  # type: ignore[arg-type]
        retry_config={
            "max_retries": _TRIES,
            "retry_timeout": timedelta(seconds=_READ_TIMEOUT_S),
            "backoff": {"init_backoff": _BACKOFF, "base": 2, "max_backoff": 16 * _BACKOFF},
        },
        **signed,
    )


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn boto3's errors into one line that says what was asked for and what to check."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _refused(error, uri) from error
    except (BotoCoreError, Boto3Error) as error:
        raise _failed(error, uri) from error


def one_line(error: Exception) -> str:
    """Shorten an error of a library to its first words."""
    return " ".join(str(error).split("Debug source")[0].split())[:300]


def _failed(error: Exception, uri: str) -> UadrayError:
    """An error on this side of the wire: no credentials, no connection, an impossible bucket name."""
    from botocore import exceptions as boto

    names = (
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "MetadataRetrievalError"),
        *("SSOError", "TokenRetrievalError", "NoAuthTokenError", "UnknownCredentialError", "LoginError"),
    )
    kinds = tuple(getattr(boto, kind) for kind in names if hasattr(boto, kind))  # older versions have no LoginError
    if isinstance(error, kinds):
        return AccessError(
            f"{uri}: {one_line(error).rstrip('.')}; log in again (`aws sso login`), or check AWS_PROFILE, ~/.aws and "
            "the AWS_ variables"
        )
    if isinstance(error, boto.ParamValidationError):
        return InputError(f"{uri}: not a usable bucket or key: {one_line(error)}")
    return UnreachableError(
        f"{uri}: no answer from {connect().endpoint}: {one_line(error)}; check AWS_ENDPOINT_URL, network and proxy"
    )


def _refused(error: Any, uri: str) -> UadrayError:
    """An answer that says no. The codes are those of the S3 API."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    endpoint = connect().endpoint
    if status == 412:
        return ChangedError(f"{uri}: the object has changed since it was looked at")
    if code == "NoSuchBucket":
        bucket = split_s3(uri)[0]
        return NoBucketError(f"{uri}: there is no bucket {bucket} at {endpoint}; check its name and AWS_ENDPOINT_URL")
    if status == 404:
        return NotFoundError(f"{uri}: there is no such object at {endpoint}")
    if status in (401, 403) or code in _ADVICE:
        advice = f"{_ADVICE[code]}; {_who()}" if code in _ADVICE else _who()
        return AccessError(f"{uri}: {endpoint} refuses: {code} ({message}); {advice}")
    if status == 501:
        return InputError(f"{uri}: {endpoint} cannot do what was asked for: {code} ({message}); use another S3 server")
    if status >= 500 or code in ("SlowDown", "RequestTimeout"):
        return UnreachableError(f"{uri}: {endpoint} answered {status} {code} ({message}), {_TRIES} times")
    return InputError(f"{uri}: {endpoint} refuses: {status} {code} ({message}); check region and AWS_ENDPOINT_URL")


def _who() -> str:
    """Say whose credentials were used, never the credentials."""
    credentials = connect().credentials
    if credentials is None:
        return "the request was anonymous, for no credentials were found: set AWS_PROFILE or AWS_ACCESS_KEY_ID"
    profile = connect().session.profile_name
    if credentials.method == "env":
        return "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
    return f"check profile {profile} (credentials from {credentials.method}) and what it may do there"
