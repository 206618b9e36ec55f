"""Which bundles an endpoint has, by name: one small record each in `out/bundles/`, by conditional puts.

Every replica reads the same records, at most `CACHE_S` late. A name that was removed keeps its record, as removed, so
that a replica which starts later does not put it back from the configuration.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import final

from uadray.config import Config, parse_config
from uadray.decisions.conformal import Calibration
from uadray.detectors.description import BundleDescription
from uadray.errors import InputError, NotFoundError, UadrayError, UnreachableError, WorkError, shown_text
from uadray.networks.bundle_description import CALIBRATION
from uadray.screening.bundles import read_calibration
from uadray.serving.config import BundleName
from uadray.storage import objects

log = logging.getLogger("uadray.serving")

FOLDER = "bundles"

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What a bundle may be called, as in `config.BundleName`."""

CACHE_S = 2.0

PATIENCE_S = 1.0
"""How long a request waits for the store to say what has changed, before it takes what was there."""

MAX_RECORD_BYTES = 64 * 2**10

TRIES = 5
"""Of a conditional put that another was faster with."""


class UnknownBundleError(NotFoundError):
    """No bundle goes by this name."""


class BrokenBundleError(WorkError):
    """A bundle that has this name cannot be used."""


class LastBundleError(InputError):
    """The only bundle cannot be removed."""


class _Record(Config):
    """`bundles/<name>.json`.

    Attributes:
        name: of the bundle here.
        uri: where it lies.
        id: of the bundle that was read there.
        configured: URI that the configuration had for the name when the record was written from it; else empty.
        removed: nobody uses it any more.
        changed: when.
    """

    name: BundleName
    uri: str
    id: str
    configured: str = ""
    removed: bool = False
    changed: str = ""


@dataclass(frozen=True)
class RegisteredBundle:
    """A bundle that can be asked for.

    Attributes:
        name: what requests call it.
        uri: where it lies.
        description: its `bundle.json`.
        calibration: what its decisions rest on; without, it scores tiles alone.
    """

    name: str
    uri: str
    description: BundleDescription
    calibration: Calibration | None

    @property
    def id(self) -> str:
        """Of the bundle."""
        return self.description.id

    @property
    def model_id(self) -> str:
        """What replicas of the stages know it by: they load it from the URI, and refuse another bundle there."""
        return f"{self.id}@{self.uri}"


@final
class Registry:
    """The bundles of the endpoint whose folder is `out`. Blocks: call it in a thread."""

    def __init__(self, out: str, *, default: str = "") -> None:
        """Take the endpoint's folder, and the name of the bundle that scores where a request names none."""
        self.folder = objects.join(out, FOLDER)
        self._default = default
        self._lock = threading.Lock()
        self._listing: Future[_Listing] | None = None
        self._last: _Listing | None = None
        self._asked_at = 0.0

    def all(self) -> dict[str, RegisteredBundle]:
        """Bundles by name, the default first, then by name; those that cannot be read any more are left out.

        A store that does not answer is waited for at the first time alone: then the last answer holds.
        """
        return dict(self._current().bundles)

    def get(self, name: str | None = None) -> RegisteredBundle:
        """The bundle of a name; None takes the default.

        Raises:
            UnknownBundleError: there is none.
            BrokenBundleError: it cannot be read any more, or is another by now.
        """
        listing = self._current()
        if name is None and listing.bundles:
            return next(iter(listing.bundles.values()))
        if name in listing.broken:
            raise BrokenBundleError(f"bundle {name} cannot be read any more, or is another by now")
        if name is None or name not in listing.bundles:
            raise UnknownBundleError(f"no bundle is called {str(name)[:64]!r} here")
        return listing.bundles[name]

    def put(self, name: str, uri: str) -> RegisteredBundle:
        """Read the bundle at a URI, and give it the name, whatever had it.

        Raises:
            InputError: there is no valid bundle.
        """
        bundle = read_registered(name, uri)
        self.switch(bundle)
        return bundle

    def switch(self, bundle: RegisteredBundle) -> None:
        """Give a bundle, as it was read, its name. Requests in flight finish with the one that had it."""
        self._change(bundle.name, lambda old: _record(bundle, configured=old.configured if old else ""))

    def put_configured(self, configured: Mapping[str, str]) -> None:
        """Give the bundles of a configuration their names, at start.

        What was swapped or removed while the endpoint ran stays so until the configuration has another URI.
        """
        for name, uri in configured.items():
            old, _ = self._old(name)
            if old is None or old.configured != uri:
                record = _record(read_registered(name, uri), configured=uri)
                self._change(name, lambda _, record=record: record)  # type: ignore[misc]

    def delete(self, name: str) -> None:
        """Take a name away.

        Raises:
            UnknownBundleError: nobody has it.
            LastBundleError: it is the only one.
        """
        self._forget()
        listing = self._current()
        if name not in listing.broken:
            self.get(name)
            if len(listing.bundles) == 1:
                raise LastBundleError(f"{name} is the only bundle; add another first")
        self._change(name, lambda old: old.model_copy(update={"removed": True, "changed": _now()}) if old else None)

    def _change(self, name: str, change: "Callable[[_Record | None], _Record | None]") -> None:
        """Replace the record of a name by what `change` makes of it, again where another was faster."""
        uri = self._uri(name)
        for _ in range(TRIES):
            old, etag = self._old(name)
            new = change(old)
            if new is None:
                return
            data = new.model_dump_json().encode()
            if objects.put_if_absent(uri, data) if etag is None else objects.replace_if_match(uri, data, etag):
                self._forget()
                return
        raise WorkError(f"bundle {name}: others change it all the time")

    def _uri(self, name: str) -> str:
        if not re.fullmatch(NAME, name):
            raise InputError(f"{name[:64]!r}: no name of a bundle; expected {NAME}")
        return objects.join(self.folder, f"{name}.json")

    def _old(self, name: str) -> tuple["_Record | None", str | None]:
        """The record of a name, and its etag."""
        uri = self._uri(name)
        try:
            etag = objects.stat(uri).etag
            return _parsed(uri), etag
        except NotFoundError:
            return None, None

    def _forget(self) -> None:
        """Have the next call look at the store, and wait for it."""
        with self._lock:
            self._listing = None

    def _current(self) -> "_Listing":
        """What the store has, at most `CACHE_S` old if it answers."""
        with self._lock:
            listing, last = self._listing, self._last
            is_forced = listing is None
            if listing is None or (listing.done() and time.monotonic() - self._asked_at > CACHE_S):
                self._listing = listing = _in_thread(lambda: self._list(last))
                self._asked_at = time.monotonic()
            left_s = max(0.0, PATIENCE_S - (time.monotonic() - self._asked_at))
        try:
            current = listing.result(timeout=None if is_forced or last is None else left_s)
        except (UadrayError, TimeoutError) as error:
            if last is None or is_forced:
                raise
            if left_s:
                log.warning("bundles: the store does not answer (%s); the last answer holds", type(error).__name__)
            return last
        with self._lock:
            if self._last is None or current.at > self._last.at:
                self._last = current
        return current

    def _list(self, last: "_Listing | None") -> "_Listing":
        """The bundles by name; one whose record has not changed is not read again."""
        at, known = time.monotonic(), last.read if last else {}
        read: dict[tuple[str, str], RegisteredBundle] = {}
        broken: set[str] = set()
        for info in objects.list_objects(self.folder, suffixes=(".json",)):
            key = (info.uri, info.etag)
            name = objects.name(info.uri).removesuffix(".json")
            try:
                bundle = known[key] if key in known else _of_record(_parsed(info.uri))
            except (InputError, WorkError) as error:
                if isinstance(error, UnreachableError):
                    raise
                log.error("bundle %s cannot be used: %s", name, shown_text(str(error)))
                broken.add(name)
                continue
            if bundle is not None:
                read[key] = bundle
        found = {bundle.name: bundle for bundle in read.values()}
        ordered = dict(sorted(found.items(), key=lambda item: (item[0] != self._default, item[0])))
        return _Listing(at, ordered, frozenset(broken), read)


@dataclass(frozen=True)
class _Listing:
    """What the store had: when, the bundles by name, names that cannot be used, and bundles by record and etag."""

    at: float
    bundles: dict[str, RegisteredBundle]
    broken: frozenset[str]
    read: dict[tuple[str, str], RegisteredBundle]


def _in_thread(work: "Callable[[], _Listing]") -> "Future[_Listing]":
    """Start work in a thread that does not keep the process alive."""
    future: Future[_Listing] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="bundles").start()
    return future


def read_registered(name: str, uri: str) -> RegisteredBundle:
    """The bundle at a URI, validated as whoever loads it does; its weights are not read.

    Raises:
        InputError: there is no valid bundle, or its calibration belongs to another.
    """
    from uadray.detectors.bundle import read_bundle  # imports torch

    return _with_calibration(name, uri, read_bundle(uri))


def _of_record(record: _Record) -> RegisteredBundle | None:
    """The bundle that a record names; None of one that was removed."""
    if record.removed:
        return None
    bundle = read_registered(record.name, record.uri)
    if bundle.id != record.id:
        raise WorkError(f"bundle {record.name}: another lies at its place now, {bundle.id} instead of {record.id}")
    return bundle


def _with_calibration(name: str, uri: str, description: BundleDescription) -> RegisteredBundle:
    is_calibrated = objects.exists(objects.join(uri, CALIBRATION))
    return RegisteredBundle(name, uri, description, read_calibration(uri, description) if is_calibrated else None)


def _record(bundle: RegisteredBundle, *, configured: str) -> _Record:
    return _Record(name=bundle.name, uri=bundle.uri, id=bundle.id, configured=configured, changed=_now())


def _parsed(uri: str) -> _Record:
    try:
        values = json.loads(objects.read_bytes(uri, max_bytes=MAX_RECORD_BYTES))
    except ValueError as error:
        raise InputError(f"{uri}: not JSON") from error
    return parse_config(_Record, values, source=uri)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
