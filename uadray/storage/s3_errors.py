"""What a failed request to S3 means to people: one line that says what was asked for, and what to check."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from uadray.errors import (
    AccessError,
    ChangedError,
    InputError,
    NoBucketError,
    NotFoundError,
    UadrayError,
    UnreachableError,
)
from uadray.storage.s3_client import TRIES, connect, one_line
from uadray.storage.uris import split_s3

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
"""What to do about error codes that concern credentials, clock or region, and never the object."""


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


def no_such_object(uri: str) -> NotFoundError:
    """Return the error that says so."""
    return NotFoundError(f"{uri}: there is no such object at {connect().endpoint}")


def _failed(error: Exception, uri: str) -> UadrayError:
    """Explain a request without an answer: no credentials, no connection, an impossible bucket name."""
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
    """Explain an answer that refuses, by the error codes of the S3 API."""
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
        return no_such_object(uri)
    if status in (401, 403) or code in _ADVICE:
        advice = f"{_ADVICE[code]}; {_who()}" if code in _ADVICE else _who()
        return AccessError(f"{uri}: {endpoint} refuses: {code} ({message}); {advice}")
    if status == 501:
        return InputError(f"{uri}: {endpoint} cannot do what was asked for: {code} ({message}); use another S3 server")
    if status >= 500 or code in ("SlowDown", "RequestTimeout"):
        return UnreachableError(f"{uri}: {endpoint} answered {status} {code} ({message}), {TRIES} times")
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
