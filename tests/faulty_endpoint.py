"""A small endpoint on a real port, which keeps to the routes of the real one, and fails as it is told to."""

import asyncio
import io
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

JPEG = b"\xff\xd8\xff picture"


class Endpoint:
    """What it holds outlives a restart, as a folder would.

    Attributes:
        jobs: by id.
        keys: job id by idempotency key.
        seen: method, path and headers of every request.
        faults: each is asked once, in order, whether it answers the next request instead.
        events: makes the events of a job, each as bytes.
        steps: a job is done after so many looks.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.faults: list[Callable[[Request], Response | None]] = []
        self.events: Callable[[dict[str, Any]], AsyncIterator[bytes]] | None = None
        self.decisions: list[dict[str, Any]] = [scored()]
        self.bundle_ids = ["b1"]
        self.steps = 2

    def app(self) -> Starlette:
        paths: list[tuple[str, str, Any]] = [
            ("POST", "/v1/slides", self._submit), ("GET", "/v1/slides", self._list),
            ("GET", "/v1/slides/{id}", self._status), ("DELETE", "/v1/slides/{id}", self._cancel),
            ("GET", "/v1/slides/{id}/events", self._events), ("GET", "/v1/slides/{id}/decision", self._decision),
            ("GET", "/v1/slides/{id}/tiles", self._tiles), ("GET", "/v1/slides/{id}/thumbnail", self._picture),
            ("GET", "/v1/slides/{id}/heatmap", self._picture), ("POST", "/v1/tiles/score", self._score),
            ("POST", "/v1/batches", self._batch), ("GET", "/v1/batches/{id}", self._batch_status),
        ]  # fmt: skip
        return Starlette(routes=[Route(path, self._watched(call), methods=[method]) for method, path, call in paths])

    def _watched(self, call: Any) -> Any:
        async def answer(request: Request) -> Response:
            self.seen.append((request.method, request.url.path, dict(request.headers)))
            instead = self.faults.pop(0)(request) if self.faults else None
            answered: Response = instead if instead is not None else await call(request)
            return answered

        return answer

    async def _submit(self, request: Request) -> Response:
        asked = await request.json()
        key = request.headers["idempotency-key"]
        job_id = self.keys.setdefault(key, f"{len(self.jobs):019x}")
        if job_id not in self.jobs:
            self.jobs[job_id] = {
                "id": job_id, "slide_id": asked.get("slide_id", "a"), "uri": asked["uri"], "state": "waiting",
                "why": None, "progress": None, "decisions": [], "asked": asked, "looks": 0,
            }  # fmt: skip
        return JSONResponse(self.jobs[job_id], 202)

    async def _list(self, request: Request) -> Response:
        ids, query = sorted(self.jobs), request.query_params
        start, limit = int(query.get("cursor", 0)), min(2, int(query["limit"]))
        page = [self.jobs[each] for each in ids[start : start + limit]]
        return JSONResponse({"slides": page, "next_cursor": str(start + limit) if start + limit < len(ids) else None})

    async def _status(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["id"])
        return problem(404, "no such job") if job is None else JSONResponse(self.moved(job))

    def moved(self, job: dict[str, Any]) -> dict[str, Any]:
        """A job one look further on."""
        if job["state"] in ("done", "cancelled"):
            return job
        job["looks"] += 1
        is_done = job["looks"] >= self.steps
        job["state"], job["decisions"] = ("done", self.decisions) if is_done else ("running", [])
        tiles = min(job["looks"], self.steps)
        job["progress"] = {"tiles": tiles, "of": self.steps, "seconds_left": None if is_done else 1.0}
        return job

    async def _cancel(self, request: Request) -> Response:
        job = self.jobs[request.path_params["id"]]
        job["state"] = "cancelled"
        return JSONResponse(job)

    async def _events(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["id"])
        if job is None:
            return problem(404, "no such job")
        make = self.events or self.all_events
        return StreamingResponse(make(job), media_type="text/event-stream")

    async def all_events(self, job: dict[str, Any]) -> AsyncIterator[bytes]:
        while True:
            yield event(self.moved(job))
            if job["state"] in ("done", "cancelled"):
                return
            await asyncio.sleep(0.02)

    async def _decision(self, request: Request) -> Response:
        job = self.jobs[request.path_params["id"]]
        if job["state"] != "done":
            return problem(409, "not done yet")
        several = {"slide_id": job["slide_id"], "decisions": self.decisions}
        one = {"slide_id": job["slide_id"]} | self.decisions[0]
        return JSONResponse(one if len(self.decisions) == 1 else several)

    async def _tiles(self, request: Request) -> Response:
        sink = io.BytesIO()
        pq.write_table(pa.table({"tile_id": ["t0"], "score": [0.5]}), sink)
        return Response(sink.getvalue(), media_type="application/vnd.apache.parquet")

    async def _picture(self, request: Request) -> Response:
        return Response(JPEG, media_type="image/jpeg")

    async def _score(self, request: Request) -> Response:
        body = await request.body()
        if request.headers["content-type"] == "application/x-npz":
            with np.load(io.BytesIO(body)) as arrays:
                sums = zip(arrays["ids"].tolist(), arrays["tiles"].mean(axis=(1, 2, 3)).tolist(), strict=True)
            wanted = dict(request.query_params)
        else:
            wanted = json.loads(body)
            sums = ((tile["id"], float(len(tile["image"]))) for tile in wanted["tiles"])
        one_map = {"shape": [1, 2], "float32": "AACAPwAAAEA="} if wanted.get("maps") in (True, "true") else None
        scores = [
            {"id": name, "score": value or None, "error": None if value else "black", "map": one_map}
            for name, value in sums
        ]
        bundle_id = self.bundle_ids.pop(0) if len(self.bundle_ids) > 1 else self.bundle_ids[0]
        return JSONResponse({"bundle_id": bundle_id, "scores": scores})

    async def _batch(self, request: Request) -> Response:
        asked = await request.json()
        return JSONResponse({"id": "e" * 19, "asked": asked, "counts": {"open": 2, "done": 0, "cancelled": 0}}, 202)

    async def _batch_status(self, request: Request) -> Response:
        counts = {"open": 0, "done": 2, "cancelled": 0, "scored": 1, "failed": 1, "anomalous": 1}
        return JSONResponse({"id": request.path_params["id"], "counts": counts})


def scored(**fields: Any) -> dict[str, Any]:
    """The decision of a bundle."""
    return {"bundle": None, "state": "scored", "decision": "anomalous", "score": 2.5, "p_value": 0.02} | fields


def failed() -> dict[str, Any]:
    return {"bundle": None, "state": "failed", "reason": "no_mpp", "decision": None, "score": None, "p_value": None}


def problem(status: int, detail: str, **headers: str) -> Response:
    """A refusal as RFC 9457 has it."""
    body = {"type": "about:blank", "title": "no", "status": status, "detail": detail, "request_id": "r1"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse(body, status, named, media_type="application/problem+json")


def event(job: dict[str, Any]) -> bytes:
    return f": here\n\nevent: progress\ndata: {json.dumps(job)}\n\n".encode()


class _Cut(Response):
    """An answer that breaks off: its length is not what was said."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        raise ConnectionAbortedError("cut off on purpose")


def cut() -> Response:
    return _Cut()


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@contextmanager
def running(endpoint: Endpoint, port: int = 0, **options: Any) -> Iterator[int]:
    """The endpoint on a port of 127.0.0.1; streams that are open at the end are cut off."""
    config = uvicorn.Config(
        endpoint.app(), port=port, log_config=None, ws="none", lifespan="off", timeout_graceful_shutdown=0, **options
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.001)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
