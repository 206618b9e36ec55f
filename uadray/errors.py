"""Errors for people: what it is about, what was expected, what to do.

`InputError` ends a command with exit status 2 (nothing was done: the input is wrong). `SlideError` is about one
slide and never ends a command: the slide ends in the state `failed(reason)` and the others go on. `WorkError` ends a
command with exit status 1 (the work was started and could not be finished).

Errors name slides, for whoever gave the command. Logs are kept and sent elsewhere: they have `shown` for a slide.
"""

import hashlib
import os
import re

SHOW_IDS = "UADRAY_SHOW_IDS"
"""The environment variable behind `--show-ids`: set to 1, logs name slides."""


_PATH = re.compile(r"\S*/.*?(?=: |$)", re.DOTALL)


def shown(slide_id: str) -> str:
    """What a log calls a slide: eight hex digits, by which whoever has the manifest finds it, or its id if asked for.

    >>> shown("a")
    'ca978112'
    """
    return slide_id if shows_ids() else hashlib.sha256(slide_id.encode()).hexdigest()[:8]


def shown_text(message: str) -> str:
    """A message as logs have it: without paths, which name slides.

    >>> shown_text("unreadable: s3://bucket/Jane Doe.svs: permission denied")
    'unreadable: (path): permission denied'
    """
    return message if shows_ids() else _PATH.sub("(path)", message)


def shows_ids() -> bool:
    """Whether logs may name slides, and what names them: their paths."""
    return os.environ.get(SHOW_IDS, "") not in ("", "0")


class UadrayError(Exception):
    """Whatever uadray refuses or cannot do, in one line.

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
        reason: a short stable word that counts and filters can use: `missing`, `unreadable`, `no_mpp`, `changed`, ...
    """

    def __init__(self, slide_id: str, reason: str, message: str) -> None:
        """Name the slide, the reason, and what was expected."""
        super().__init__(f"slide {slide_id}: {message}")
        self.slide_id = slide_id
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["SlideError"], tuple[str, str, str]]:
        """Cross process borders whole (Ray pickles errors)."""
        return (SlideError, (self.slide_id, self.reason, self.message))


class ClusterLostError(WorkError):
    """The Ray cluster is gone: whatever is asked of it hangs, its shutdown too. Exit status 1."""
