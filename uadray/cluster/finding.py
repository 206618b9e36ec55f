"""What a check has found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        what: that was checked, in a word or two.
        ok: whether it is as it should be.
        message: what was found and, where it is not ok, how to mend it.
        required: False for what only some uses need.
    """

    what: str
    ok: bool
    message: str
    required: bool = True
