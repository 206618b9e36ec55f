"""The token that a client sends: given, from a file, or from the environment."""

import os
from pathlib import Path

from uadray.errors import InputError

TOKEN = "UADRAY_TOKEN"  # noqa: S105 - a name
TOKEN_FILE = "UADRAY_TOKEN_FILE"  # noqa: S105 - a name


def token_now(token: str | None, token_file: str | None) -> str | None:
    """The token of the next request; None where there is none.

    It is what was given; else the first line of the file, which is read anew for each request, so that it may be
    replaced meanwhile; else what the environment says: `UADRAY_TOKEN`, or the file of `UADRAY_TOKEN_FILE`.

    Raises:
        InputError: the file cannot be read, or the token has spaces or what is no ASCII.
    """
    if token is not None:
        return _checked(token, "the token")
    if token_file is None and os.environ.get(TOKEN):
        return _checked(os.environ[TOKEN], TOKEN)
    path = token_file if token_file is not None else os.environ.get(TOKEN_FILE)
    if not path:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"token file {path}: {getattr(error, 'strerror', None) or 'not text'}") from error
    return _checked(text.strip().partition("\n")[0], f"token file {path}")


def _checked(token: str, where: str) -> str:
    """A token that a header may hold. Messages do not show it."""
    token = token.strip()
    if not token or not all("!" <= c <= "~" for c in token):
        raise InputError(f"{where}: expected one word of ASCII characters")
    return token
