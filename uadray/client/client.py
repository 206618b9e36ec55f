"""An endpoint, from Python.

    client = Client("https://uadray.example:8000")          # token: UADRAY_TOKEN, or token_file=
    job = client.submit("s3://archive/a.svs", patient_id="p1")
    job = client.wait(job)
    client.decision(job)                                     # in a notebook: with its pictures

Whatever may be repeated is repeated while the endpoint is busy, away or restarted, see `connection`.
"""

import itertools
import json
import math
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from uadray.client.answers import Batch, Decision, Job, batch_of, decision_of, job_of
from uadray.client.connection import IDEMPOTENCY_KEY, PATIENCE_S, Connection, pause_s, values_of
from uadray.client.tile_scores import TILES, Images, TileScore, bodies, scores_of
from uadray.client.tokens import token_now
from uadray.client.waiting import LOOK_S, states
from uadray.errors import InputError, UadrayError, WorkError

PAGE = 100
"""Jobs in an answer."""


class Client:
    """An endpoint. A context manager; several threads may use it.

    Args:
        url: of the endpoint.
        token: that is sent; else see `tokens.token_now`.
        token_file: file that it stands in.
        cacert: file of the authorities whose certificates are trusted, instead of those that all trust.
        patience_s: for so long a request is repeated while there is no answer.
    """

    def __init__(
        self, url: str, token: str | None = None, *, token_file: str | None = None, cacert: str | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:  # fmt: skip
        self._at = Connection(url, token=partial(token_now, token, token_file), cacert=cacert, patience_s=patience_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self._at.url}>"

    def close(self) -> None:
        """Close its connections."""
        self._at.close()

    def submit(
        self, uri: str, *, bundles: Sequence[str] | None = None, priority: int | None = None,
        idempotency_key: str | None = None, **fields: Any,
    ) -> Job:  # fmt: skip
        """Send a slide.

        Args:
            uri: of the slide, as the endpoint reads it.
            bundles: names of those that decide; the endpoint's first unless given.
            priority: 0 to 9, 5 unless given; higher is sooner.
            idempotency_key: the same key gives the same job; a new one unless given.
            fields: `slide_id`, `mpp`, `patient_id`, `site`, `scanner`, `stain`, `label`, as in a manifest.
        """
        wanted = {"uri": uri, "bundles": bundles and list(bundles), "priority": priority, **fields}
        return job_of(self._post_once("/v1/slides", wanted, idempotency_key))

    def submit_batch(
        self, *, manifest: str | None = None, prefix: str | None = None,
        slides: Sequence[Mapping[str, Any]] | None = None, split: str | None = None,
        bundles: Sequence[str] | None = None, priority: int | None = None, idempotency_key: str | None = None,
    ) -> Batch:  # fmt: skip
        """Send many slides: those of a manifest, of a prefix (both read by the endpoint), or these.

        Args:
            manifest: its URI.
            prefix: folder or s3:// prefix.
            slides: fields of each, as `submit` takes them.
            split: only the manifest's slides of this split.
            bundles: see `submit`.
            priority: see `submit`.
            idempotency_key: see `submit`.
        """
        if sum(each is not None for each in (manifest, prefix, slides)) != 1:
            raise InputError("a batch is a manifest, a prefix or slides: one of these")
        wanted = {
            "manifest": manifest, "prefix": prefix, "slides": slides and [dict(each) for each in slides],
            "split": split, "bundles": bundles and list(bundles), "priority": priority,
        }  # fmt: skip
        return batch_of(self._post_once("/v1/batches", wanted, idempotency_key))

    def status(self, job: Job | str) -> Job:
        """How far a slide is."""
        return job_of(self._get(_path(job)))

    def batch(self, batch: Batch | str) -> Batch:
        """How far a batch is."""
        return batch_of(self._get(_batch_path(batch)))

    def wait(
        self, job: Job | str, *, progress: Callable[[Job], None] = lambda job: None, timeout_s: float | None = None
    ) -> Job:
        """Wait until a slide is done or cancelled; `progress` is called with the job whenever there is news.

        It listens to the endpoint's events, and looks by itself where these break off, so that it outlives lost
        connections and an endpoint that is restarted.

        Raises:
            WorkError: it has not ended within `timeout_s`; the job goes on.
        """
        for state in states(self._at, _path(job), _deadline(timeout_s)):
            progress(state)
            if state.has_ended:
                return state
        raise WorkError(f"job {_id(job)} has not ended within {timeout_s:g} s; it goes on, wait again")

    def wait_batch(
        self, batch: Batch | str, *, progress: Callable[[Batch], None] = lambda batch: None,
        timeout_s: float | None = None,
    ) -> Batch:  # fmt: skip
        """Wait until every slide of a batch is done or cancelled; looks every few seconds.

        Raises:
            WorkError: it has not ended within `timeout_s`; the batch goes on.
        """
        ends = _deadline(timeout_s)
        for turn in itertools.count():
            state = self.batch(batch)
            progress(state)
            if state.has_ended:
                return state
            if time.monotonic() > ends:
                break
            time.sleep(min(pause_s(turn), LOOK_S))
        raise WorkError(f"batch {state.id} has not ended within {timeout_s:g} s; it goes on, wait again")

    def decision(self, job: Job | str) -> Decision:
        """What was decided of a slide.

        Raises:
            UadrayError: it is not done yet, or was cancelled.
        """
        path = _path(job)
        return decision_of(self._get(f"{path}/decision"), partial(self._pictures, path))

    def tiles(self, job: Job | str, *, bundle: str | None = None) -> pa.Table:
        """The tile scores of a slide that is done, one row a tile.

        Args:
            job: of the slide.
            bundle: which bundle's, where there are several.
        """
        data = self.tiles_file(job, bundle=bundle)
        try:
            # its threads abort a process that ends right after, now and then (apache/arrow 33975)
            return pq.read_table(pa.BufferReader(data), use_threads=False)
        except pa.ArrowInvalid as error:
            raise WorkError(f"tiles of job {_id(job)}: no Parquet file: {error}") from error

    def tiles_file(self, job: Job | str, *, bundle: str | None = None) -> bytes:
        """The same as a Parquet file."""
        params = {"format": "parquet", "bundle": bundle}
        return self._at.send("GET", f"{_path(job)}/tiles", params=params).content

    def cancel(self, job: Job | str) -> Job:
        """Cancel a slide that is not decided yet; the job as it is then."""
        response = self._at.send("DELETE", _path(job))
        return job_of(values_of(response)) if response.content else self.status(job)

    def cancel_batch(self, batch: Batch | str) -> Batch:
        """Cancel the slides of a batch that are not decided yet; the batch as it is then."""
        response = self._at.send("DELETE", _batch_path(batch))
        return batch_of(values_of(response)) if response.content else self.batch(batch)

    def jobs(self, *, batch: Batch | str | None = None, state: str | None = None) -> Iterator[Job]:
        """All jobs, the newest first; they are fetched as they are asked for.

        Args:
            batch: only those of a batch.
            state: only those that are `waiting`, `running`, `done` or `cancelled`.
        """
        cursor: str | None = None
        while True:
            named = batch.id if isinstance(batch, Batch) else batch
            page = self._get("/v1/slides", batch=named, state=state, limit=PAGE, cursor=cursor)
            yield from map(job_of, page.get("slides", ()))
            before, cursor = cursor, page.get("next_cursor")
            if not cursor or cursor == before:
                return

    def score(
        self, tiles: Images | npt.NDArray[np.uint8], *, bundle: str | None = None, maps: bool = False,
        reconstructions: bool = False, tiles_per_request: int = TILES,
    ) -> list[TileScore]:  # fmt: skip
        """Score tiles, in their order. It changes nothing, so it is repeated like a GET.

        Args:
            tiles: uint8 [N, h, w, 3], or files of PNG or JPEG (paths, or their bytes).
            bundle: its name; the endpoint's first unless given.
            maps: also the residual map of each.
            reconstructions: also the reconstruction of each.
            tiles_per_request: fewer where the endpoint says that it takes no more.

        Raises:
            WorkError: the bundle was replaced by another in between: then not all scores are of one.
        """
        wanted = {"bundle": bundle, "maps": maps or None, "reconstructions": reconstructions or None}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        scores: list[TileScore] = []
        ids = set[str]()
        for body in bodies(tiles, most=tiles_per_request):
            answer = self._score(body.content, wanted, is_array=body.is_array)
            scores += scores_of(answer)
            ids.add(str(answer.get("bundle_id")))
        if len(ids) > 1:
            raise WorkError(f"the bundle was replaced meanwhile ({' and '.join(sorted(ids))}); score again")
        return scores

    def bundles(self) -> list[dict[str, Any]]:
        """What the endpoint scores with, the first first."""
        return list(self._get("/v1/bundles").get("bundles", ()))

    def _score(self, content: Any, wanted: Mapping[str, Any], *, is_array: bool) -> dict[str, Any]:
        path = "/v1/tiles/score"
        if not is_array:
            return values_of(self._at.send("POST", path, json=content | wanted, may_repeat=True))
        params = {name: "true" if value is True else value for name, value in wanted.items()}
        headers = {"Content-Type": "application/x-npz"}
        return values_of(self._at.send("POST", path, params=params, content=content, headers=headers, may_repeat=True))

    def _post_once(self, path: str, wanted: Mapping[str, Any], key: str | None) -> dict[str, Any]:
        """The answer to what is done once, however often it is sent."""
        key = secrets.token_hex(16) if key is None else key
        if not key.isascii() or not key.isprintable() or not key.strip():
            raise InputError(f"idempotency key {key[:80]!r}: expected ASCII characters on one line")
        body = {name: value for name, value in wanted.items() if value is not None}
        try:
            content = json.dumps(body, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: a field cannot be sent: {error}") from error
        headers = {IDEMPOTENCY_KEY: key, "Content-Type": "application/json"}
        return values_of(self._at.send("POST", path, content=content, headers=headers))

    def _get(self, path: str, **params: Any) -> dict[str, Any]:
        return values_of(self._at.send("GET", path, params=params))

    def _pictures(self, path: str) -> dict[str, bytes]:
        """Thumbnail and heatmap of a slide, as far as they can be had; they are not waited for."""
        pictures = {}
        for name in ("thumbnail", "heatmap"):
            with suppress(UadrayError):
                pictures[name] = self._at.send("GET", f"{path}/{name}", may_repeat=False).content
        return pictures


def _deadline(timeout_s: float | None) -> float:
    return math.inf if timeout_s is None else time.monotonic() + timeout_s


def _id(job: Job | str) -> str:
    return job.id if isinstance(job, Job) else job


def _path(job: Job | str) -> str:
    return f"/v1/slides/{_segment(_id(job))}"


def _batch_path(batch: Batch | str) -> str:
    return f"/v1/batches/{_segment(batch.id if isinstance(batch, Batch) else batch)}"


def _segment(an_id: str) -> str:
    """An id as part of a path.

    Raises:
        InputError: it cannot be one: it would lead elsewhere.
    """
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]*", an_id):
        raise InputError(f"{an_id!r} is not the id of a job or a batch")
    return an_id
