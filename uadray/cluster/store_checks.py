"""Whether a store lets this machine read and write: credentials, inputs, and the folder for results.

None of this needs Ray. Each check returns a finding; none raises.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from uadray.cluster.finding import Finding
from uadray.errors import InputError, NotFoundError, UadrayError, UnreachableError
from uadray.storage import objects, s3_boto3, s3_client

STORE_TIMEOUT_S = 20.0
"""For so long a check waits for a store. botocore itself waits half a minute for one that drops packets."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Marker:
    """A small object in a store: a machine that finds this content there uses the same store as its writer."""

    uri: str
    content: bytes


def credentials(*, timeout_s: float = STORE_TIMEOUT_S) -> Finding:
    """Whether the S3 server takes the credentials. No server is asked where neither it nor they are set."""

    def ask() -> str:
        connection = s3_client.connect()
        used = connection.credentials
        if used is None and connection.is_amazon:
            return "no credentials found; public buckets are read anonymously"
        if used is None:
            return f"no credentials found for {connection.endpoint}; requests will be anonymous"
        buckets = s3_boto3.visible_buckets()
        seen = "they may not list buckets" if buckets is None else f"they see {buckets} buckets"
        return f"{connection.endpoint} takes the credentials (from {used.method}); {seen}"

    return _asked("S3", ask, timeout_s)


def readable(uris: Sequence[str], *, timeout_s: float = STORE_TIMEOUT_S) -> Finding:
    """Whether objects that will be read, and that the driver can read, are there and may be read."""

    def ask() -> str:
        for uri in uris:
            try:
                objects.read_ranges(uri, [(0, min(1, objects.stat(uri).size))], etag=None)
            except NotFoundError as error:
                if objects.is_s3(uri):
                    raise
                fix = "copy it to s3:// and name it there, or mount its folder here under the same path"
                raise InputError(f"{uri} is on the driver's machine and not here: {fix}{_full_path(uri)}") from error
        return f"{len(uris)} objects can be read"

    return _asked("input", ask, timeout_s)


def store(out_uri: str, marker: Marker | None = None, *, timeout_s: float = STORE_TIMEOUT_S) -> Finding:
    """Whether results can be written, read, replaced under a condition and deleted there.

    Args:
        out_uri: the folder.
        marker: an object that another machine has written there; it has to be seen.
        timeout_s: for all of it together.
    """

    def use() -> str:
        if marker is not None and not _is_seen(marker):
            fix = "set the same AWS_ENDPOINT_URL" if objects.is_s3(out_uri) else "mount it on every node, or use s3://"
            raise InputError(
                f"{out_uri} is another place here than on the driver's machine: {fix}{_full_path(out_uri)}"
            )
        objects.check_conditional_puts(out_uri)
        return f"{out_uri} can be written, read, replaced under a condition and deleted"

    return _asked("output", use, timeout_s)


def _full_path(uri: str) -> str:
    """What is to be done besides where a path counts from a folder that is another one on each node."""
    return "" if objects.is_s3(uri) or uri.startswith(("/", "file:")) else ", and name it by its full path"


def _is_seen(marker: Marker) -> bool:
    try:
        return objects.read_bytes(marker.uri, max_bytes=len(marker.content)) == marker.content
    except NotFoundError:
        return False


def _asked(what: str, ask: Callable[[], str], timeout_s: float) -> Finding:
    """The finding that follows from a store's answer.

    A server that cannot be reached is a fault if a URI or an endpoint names it. Amazon's, which is asked by default,
    may not be needed: that it cannot be reached is then reported, and is no fault.
    """
    answer = within(timeout_s, ask)
    if isinstance(answer, str):
        return Finding(what, True, answer)
    if isinstance(answer, (TimeoutError, UnreachableError)):
        late = f"no answer within {timeout_s:.0f} s; check network, firewall and AWS_ENDPOINT_URL"
        text = str(answer) if isinstance(answer, UnreachableError) else late
        return Finding(what, False, text, required=what != "S3" or not s3_client.connect().is_amazon)
    text = str(answer) if isinstance(answer, UadrayError) else f"{type(answer).__name__}: {answer}"
    return Finding(what, False, text)


def within(seconds: float, function: Callable[[], _T]) -> _T | Exception:
    """The result of a function, or the error it raises; a `TimeoutError` where it is still running by then."""
    results: list[_T | Exception] = []

    def call() -> None:
        try:
            results.append(function())
        except Exception as error:  # every error is an answer here
            results.append(error)

    thread = threading.Thread(target=call, daemon=True, name="uadray-check")
    thread.start()
    thread.join(seconds)
    return results[0] if results else TimeoutError(f"not done within {seconds:.0f} s")
