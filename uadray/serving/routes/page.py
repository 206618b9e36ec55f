"""The page, and its files. They hold no data of anybody, so no token is asked for; the page asks for one itself."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from fastapi.responses import Response

from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.services import Services

TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8",
}  # fmt: skip
"""Kinds of files that are sent, by the end of their name; no other file of the folder is."""

INDEX = "index.html"


@dataclass(frozen=True)
class PageFile:
    """A file of the page.

    Attributes:
        content: as it is.
        packed: the same by gzip.
        media_type: what it is.
        etag: changes with the content.
    """

    content: bytes
    packed: bytes
    media_type: str
    etag: str


def router(services: Services) -> APIRouter:
    """`GET /` and `GET /viewer/...`."""
    del services  # files alone
    routes = APIRouter(include_in_schema=False)

    @routes.api_route("/", methods=["GET", "HEAD"])
    def page(request: Request) -> Response:
        return _sent(request, page_files()[INDEX])

    @routes.api_route("/viewer/{name:path}", methods=["GET", "HEAD"])
    def file(request: Request, name: str) -> Response:
        found = page_files().get(name)
        if found is None:
            raise RefusedError(404, "the page has no such file")
        return _sent(request, found)

    return routes


@cache
def page_files() -> dict[str, PageFile]:
    """All files of the page by their name below `viewer/`: what a request names is looked up, never opened."""
    return dict(_files(resources.files("uadray.serving") / "viewer", ""))


def _files(folder: Traversable, prefix: str) -> list[tuple[str, PageFile]]:
    files: list[tuple[str, PageFile]] = []
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        name, ending = prefix + entry.name, f".{entry.name.rpartition('.')[2]}"
        if entry.is_dir():
            files += _files(entry, f"{name}/")
        elif ending in TYPES:
            content = entry.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            files.append((name, PageFile(content, gzip.compress(content, mtime=0), TYPES[ending], etag)))
    return files


def _sent(request: Request, file: PageFile) -> Response:
    headers = {"ETag": file.etag, "Vary": "Accept-Encoding"}
    known = request.headers.get("if-none-match", "")
    if any(tag.strip().removeprefix("W/") in (file.etag, "*") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", "") and len(file.packed) < len(file.content):
        headers |= {"Content-Encoding": "gzip", "ETag": f"W/{file.etag}"}
        return Response(file.packed, media_type=file.media_type, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
