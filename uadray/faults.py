"""Whose fault an error is: the slide's, which ends the slide, or the system's, which is no verdict on any slide.

A slide that is damaged, has no pixel size or kills its reader fails. A fault of the system (credentials, network, a
full disk, a broken GPU) says nothing about the slide that met it: the slide is given back and tried again, on another
node where there is one.
"""

import errno

from uadray.errors import SlideError
from uadray.storage.uris import AccessError, BusyError, ChangedError, FullError, NotFoundError, UnreachableError

SYSTEM = frozenset({"no_access", "unreachable", "cache_busy", "disk_full", "memory", "device", "node"})
"""Reasons that are the system's. `memory`: a process could not get what a slide needs; `device`: what scores is broken;
`node`: files that every other node sees are not there, or uadray itself does not run."""

_OF_THE_NODE = frozenset(
    {
        *(errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN),
        *(errno.ENETUNREACH, errno.EMFILE, errno.ENFILE, errno.EREMOTEIO),
    }
)
"""A mount that has gone, too many open files: not what the bytes of a slide are about."""


def reason(error: BaseException) -> tuple[str, str]:
    """A stable word for why a slide could not be read or scored, and one line for people.

    >>> reason(AccessError("s3://b/a.svs: refused"))
    ('no_access', 's3://b/a.svs: refused')
    >>> reason(SlideError("a", "no_mpp", "no pixel size"))[0], reason(MemoryError())[0], reason(ValueError("x"))
    ('no_mpp', 'memory', ('unreadable', 'ValueError: x'))
    """
    chain = _chain(error)
    if any(_is_want_of_memory(cause) for cause in chain):
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
    """An error and what it was raised from."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__
    return chain


def _is_want_of_memory(error: BaseException) -> bool:
    """Python's, torch's on a GPU (whose class importing this does not import), or OpenCV's."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (type(error).__module__ == "cv2" and "Insufficient memory" in str(error))
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )
