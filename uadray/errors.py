"""Errors for people: what it is about, what was expected, what to do.

Three parts, in this order: the errors; whose fault an error is; what logs show of it.

- `InputError` ends a command with exit status 2: the input is wrong, and nothing was done.
- `WorkError` ends a command with exit status 1: the work was started and cannot be finished.
- `SlideError` is about one slide and never ends a command: the slide ends in the state `failed(reason)`, and the others
  go on.

Whose fault an error is decides what happens. A slide that is damaged, has no pixel size or kills its reader has failed.
A fault of the system (credentials, network, a full disk, a broken GPU) says nothing about the slide: it is given back
and tried again, on another node if there is one.

The text of an error may name slides, since it is for whoever gave the command. Logs are kept and sent elsewhere: they
show a hash instead of the id.
"""

import errno
import hashlib
import os
import re


class UadrayError(Exception):
    """What uadray refuses or cannot do, in one line.

    Attributes:
        exit_status: what the command line returns when this error reaches it.
    """

    exit_status = 1


class InputError(UadrayError):
    """The input is wrong: a manifest, a configuration, a URI, credentials, a bundle. Exit status 2."""

    exit_status = 2


class WorkError(UadrayError):
    """The work was started and cannot be finished. Exit status 1."""


class SlideError(UadrayError):
    """One slide cannot be used; it ends as `failed(reason)`.

    Attributes:
        slide_id: the slide it is about.
        reason: a short stable word by which failures are counted: `missing`, `unreadable`, `no_mpp`, `changed`, ...
    """

    def __init__(self, slide_id: str, reason: str, message: str) -> None:
        """Take the slide, the reason, and a message that says what was expected."""
        super().__init__(f"slide {slide_id}: {message}")
        self.slide_id = slide_id
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["SlideError"], tuple[str, str, str]]:
        """Keep all attributes when pickled: Ray pickles errors."""
        return (SlideError, (self.slide_id, self.reason, self.message))


class ClusterLostError(WorkError):
    """The Ray cluster is gone. Any further call to Ray would hang, `ray.shutdown` too. Exit status 1."""


class NotFoundError(InputError):
    """The object, the folder or the bucket does not exist."""


class NoBucketError(NotFoundError):
    """The bucket does not exist: its name or the endpoint is wrong."""


class AccessError(InputError):
    """Credentials are wrong, incomplete or expired, or do not allow this; or the clock or the region is wrong."""


class UnreachableError(InputError):
    """The endpoint does not answer, or breaks off, in all retries."""


class ChangedError(WorkError):
    """The object is no longer the one that was looked at before: its etag differs."""


class FullError(WorkError):
    """A disk is full, or a slide is larger than the slide cache may be."""


class BusyError(WorkError):
    """The slide cache has no room, because every copy in it is in use. The same may go well later."""


SYSTEM_REASONS = frozenset({"no_access", "unreachable", "cache_busy", "disk_full", "memory", "device", "node"})
"""Reasons that are faults of the system.

`memory`: a process could not get the memory that a slide needs. `device`: the GPU or the detector on it is broken.
`node`: files that every other node sees are missing there, or uadray itself does not run.
"""

_OF_THE_NODE = frozenset(
    {
        *(errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN),
        *(errno.ENETUNREACH, errno.EMFILE, errno.ENFILE, errno.EREMOTEIO),
    }
)
"""Errors of a node, not of a slide: a network mount that is gone, too many open files."""


def reason_of(error: BaseException) -> tuple[str, str]:
    """Return a stable word for why a slide could not be read or scored, and one line for people.

    >>> reason_of(AccessError("s3://b/a.svs: refused"))
    ('no_access', 's3://b/a.svs: refused')
    >>> reason_of(SlideError("a", "no_mpp", "no pixel size"))[0], reason_of(MemoryError())[0]
    ('no_mpp', 'memory')
    >>> reason_of(ValueError("x"))
    ('unreadable', 'ValueError: x')
    """
    chain = _chain(error)
    if any(_is_out_of_memory(cause) for cause in chain):
        return "memory", f"not enough memory: {error}"
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in _OF_THE_NODE:
            return "node", str(error)
        if isinstance(cause, ImportError):
            return "node", f"uadray does not run there: {cause}"
    if isinstance(error, SlideError):
        return error.reason, error.message
    kinds = {
        AccessError: "no_access", UnreachableError: "unreachable", BusyError: "cache_busy", FullError: "disk_full",
        ChangedError: "changed", NotFoundError: "missing",
    }  # fmt: skip
    for kind, word in kinds.items():
        if isinstance(error, kind):
            return word, str(error)
    return "unreadable", f"{type(error).__name__}: {error}"


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and the errors that it was raised from."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__
    return chain


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out: for Python, the system, OpenCV, or torch on a GPU (by name, to not import torch)."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (type(error).__module__ == "cv2" and "Insufficient memory" in str(error))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )


SHOW_IDS = "UADRAY_SHOW_IDS"
"""The environment variable behind `--show-ids`: set to 1, logs name slides."""

_PATH = re.compile(r"\S*/.*?(?=: |$)", re.DOTALL)


def shown(slide_id: str) -> str:
    """Return what logs call a slide: eight hex digits, or its id if `--show-ids` was given.

    Whoever has the manifest finds the slide by the digits: they are the beginning of the SHA-256 of the id.

    >>> shown("a")
    'ca978112'
    """
    return slide_id if shows_ids() else hashlib.sha256(slide_id.encode()).hexdigest()[:8]


def shown_text(message: str) -> str:
    """Return a message as logs have it: without paths, since these name slides.

    >>> shown_text("unreadable: s3://bucket/Jane Doe.svs: permission denied")
    'unreadable: (path): permission denied'
    """
    return message if shows_ids() else _PATH.sub("(path)", message)


def shows_ids() -> bool:
    """Tell whether logs may show ids and paths of slides."""
    return os.environ.get(SHOW_IDS, "") not in ("", "0")
