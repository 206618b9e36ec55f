"""Bearer tokens: a list with names, scopes and expiry, of which only hashes are kept.

    - {name: viewer, scopes: [read], sha256: 9f86d0..., expires: 2027-01-01}
    - {name: loader, scopes: [submit, read], token: correct-horse-battery}

It comes from a file, which is read again when it changes, or from the environment: `UADRAY_TOKENS` is such a list,
`UADRAY_TOKEN` one token with every scope.
"""

import hashlib
import hmac
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, final

import yaml
from pydantic import Field, RootModel, StringConstraints, ValidationError, field_validator, model_validator

from uadray.config import Config, parse_config
from uadray.errors import InputError

log = logging.getLogger("uadray.serving")

Scope = Literal["score", "submit", "read", "admin"]

SCOPES: frozenset[Scope] = frozenset(("score", "submit", "read", "admin"))

TOKEN, TOKENS = "UADRAY_TOKEN", "UADRAY_TOKENS"

MAX_FILE_BYTES = 2**20


class TokenEntry(Config):
    """One token, as a file has it.

    Attributes:
        name: who it was given to; audit lines say it.
        scopes: what it allows; `admin` allows everything.
        expires: from then on it is refused; a date is the beginning of that day, UTC.
        sha256: of the token, in hex digits.
        token: the token itself, instead of `sha256`.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    scopes: tuple[Scope, ...] = Field(min_length=1)
    expires: datetime | None = None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    token: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = Field(default=None, repr=False)

    @field_validator("expires", mode="before")
    @classmethod
    def _beginning_of_day(cls, value: Any) -> Any:
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime.combine(value, time(), UTC)
        return value

    @model_validator(mode="after")
    def _has_one(self) -> "TokenEntry":
        if (self.sha256 is None) == (self.token is None):
            raise ValueError("give either sha256 or token")
        return self


class _TokenList(RootModel[tuple[TokenEntry, ...]]):
    @model_validator(mode="after")
    def _names_differ(self) -> "_TokenList":
        if not self.root:
            raise ValueError("at least one token is needed")
        if len({entry.name for entry in self.root}) < len(self.root):
            raise ValueError("two tokens have the same name")
        return self


@dataclass(frozen=True)
class Token:
    """What is kept of a token: enough to recognise it, not to reveal it."""

    name: str
    scopes: frozenset[Scope]
    digest: str
    expires: datetime | None = None

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and now >= self.expires


class TokenSource(Protocol):
    """Where tokens come from."""

    def current(self) -> tuple[Token, ...]:
        """The tokens that hold now."""


@final
@dataclass(frozen=True)
class FixedTokens:
    """Tokens that stay as they are for as long as the endpoint runs."""

    tokens: tuple[Token, ...]

    def current(self) -> tuple[Token, ...]:
        """All of them."""
        return self.tokens


@final
class TokenFile:
    """Tokens of a file, which is read again when it changes. A file that went bad changes nothing, and is logged."""

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            InputError: it is missing, or no list of tokens.
        """
        self.path = path
        self._state = _state(path)
        self._tokens = _read(path)

    def current(self) -> tuple[Token, ...]:
        """The tokens of the file as it was when it could last be read."""
        try:
            state = _state(self.path)
        except InputError as error:
            self._keep((0, 0, 0), error)
            return self._tokens
        if state != self._state:
            try:
                self._tokens = _read(self.path)
            except InputError as error:
                self._keep(state, error)
            else:
                self._state = state
                log.info("tokens: %d read anew", len(self._tokens))
        return self._tokens

    def _keep(self, state: tuple[int, int, int], error: InputError) -> None:
        """Go on with the tokens there are; said once for each state of the file."""
        if state != self._state:
            self._state = state
            log.error("the tokens before are kept: %s", error)


def token_source(path: str | None, environment: Mapping[str, str] = os.environ) -> TokenSource | None:
    """Where the tokens of an endpoint come from: its file, else the environment; None where there are none.

    Raises:
        InputError: the file or a variable is no list of tokens.
    """
    if path is not None:
        return TokenFile(path)
    tokens: list[Token] = []
    if environment.get(TOKENS, "").strip():
        tokens += _parsed(environment[TOKENS], source=TOKENS)
    if environment.get(TOKEN, "").strip():
        tokens.append(Token(name="token", scopes=SCOPES, digest=digest(environment[TOKEN].strip())))
    return FixedTokens(tuple(tokens)) if tokens else None


def digest(token: str) -> str:
    """The hash that a server keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def found(token: str, tokens: tuple[Token, ...]) -> Token | None:
    """The entry of a token. Every entry is compared in constant time, so that no answer comes sooner than another."""
    asked, match = digest(token), None
    for entry in tokens:
        if hmac.compare_digest(asked, entry.digest):
            match = entry
    return match


def _state(path: str) -> tuple[int, int, int]:
    try:
        now = Path(path).stat()
    except OSError as error:
        raise InputError(f"tokens {path}: {error.strerror or error}") from error
    return now.st_mtime_ns, now.st_size, now.st_ino


def _read(path: str) -> tuple[Token, ...]:
    try:
        with Path(path).open("rb") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"tokens {path}: {error.strerror or error}") from error
    if len(text) > MAX_FILE_BYTES:
        raise InputError(f"tokens {path}: more than {MAX_FILE_BYTES} bytes")
    if mode & stat.S_IROTH:
        log.warning("tokens %s: everybody on this machine can read it; chmod 600 or 640", path)
    return _parsed(text.decode("utf-8", "replace"), source=f"tokens {path}")


def _parsed(text: str, *, source: str) -> tuple[Token, ...]:
    """The tokens of a YAML list; no message repeats a value, which may be a token.

    Raises:
        InputError: it is no list of tokens.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(f"{source}: not valid YAML{f', line {mark.line + 1}' if mark else ''}") from None
    try:
        entries = parse_config(_TokenList, values, source=source).root
    except InputError as error:
        problems = error.__cause__.errors(include_input=False) if isinstance(error.__cause__, ValidationError) else []
        told = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'the whole'}: {p['msg']}" for p in problems[:5])
        raise InputError(f"{source}: {told}") from None
    return tuple(
        Token(
            name=entry.name,
            scopes=SCOPES if "admin" in entry.scopes else frozenset(entry.scopes),
            digest=entry.sha256.lower() if entry.sha256 else digest(entry.token or ""),
            expires=entry.expires
            if entry.expires is None or entry.expires.tzinfo
            else entry.expires.replace(tzinfo=UTC),
        )
        for entry in entries
    )
