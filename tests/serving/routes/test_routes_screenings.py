"""Slides, pictures, tiles and notes over HTTP."""

import asyncio
import base64
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import endpoint_parts
import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import small_screening
from serving_client import listening
from small_screening import STRANGE_ID

from uadray.serving.access.callers import Access
from uadray.serving.access.tokens import FixedTokens, Scope, Token, TokenSource, digest
from uadray.serving.config import ServeConfig
from uadray.serving.jobs.queue import Jobs
from uadray.serving.registry import RegisteredBundle, Registry
from uadray.serving.scores import Scores, Wanted
from uadray.serving.services import Services
from uadray.serving.views.slide_views import SlideViews
from uadray.slides.manifest import SlideRow
from uadray.tiles.images import Pixels

MAIN = "/v1/screenings/main"


async def score(bundle: RegisteredBundle, pixels: Pixels, wanted: Wanted) -> Scores:
    return endpoint_parts.score_here(bundle, pixels, wanted)


async def ready() -> bool:
    return True


@contextmanager
def client_of(
    out: Path, *, slides: tuple[str, ...], tokens: TokenSource | None = None, timeout_s: float = 60, **bundles: str
) -> Iterator[httpx.Client]:
    """Asks an endpoint of this folder with these bundles."""
    config = ServeConfig(
        out=str(out), bundles=bundles or {"none": "unused"}, slides=slides, insecure=True, request_timeout_s=timeout_s
    )
    registry, views = Registry(str(out)), SlideViews()
    registry.put_configured(bundles)
    services = Services(
        config=config,
        access=Access(tokens),
        registry=registry,
        jobs=Jobs(str(out)),
        score=score,
        views=views,
        ready=ready,
    )
    with listening(services) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client
    views.close()


@pytest.fixture(scope="module")
def folder(screened: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that notes may be written to."""
    return Path(shutil.copytree(screened / "out", tmp_path_factory.mktemp("routes") / "out"))


@pytest.fixture(scope="module")
def client(screened: Path, folder: Path) -> Iterator[httpx.Client]:
    """An endpoint that has one of the two bundles."""
    with client_of(folder, slides=(str(screened / "slides"),), first=str(screened / "bundles" / "tiny0")) as made:
        yield made


def got(client: httpx.Client, path: str, **query: Any) -> Any:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def picture(answer: httpx.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    return np.asarray(cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED))


def test_screenings_are_told_with_their_bundles_and_counts(client: httpx.Client) -> None:
    (main,) = got(client, "/v1/screenings")["screenings"]
    assert main["screening"] == "main"
    assert main["counts"]["scored"] + main["counts"]["failed"] == 4
    first, second = main["bundles"]
    assert (first["folder"], first["tile_px"], first["mpp"], first["tile_um"]) == ("tiny0", 48, 1.0, 48.0)
    assert (first["registered"], second["registered"]) == (True, False)
    assert (first["calibration"]["n"], second["calibration"]["n"]) == (3, None)
    assert sum(first["decisions"].values()) == 4


def test_slides_are_told_by_page_and_filter(client: httpx.Client) -> None:
    everything = got(client, f"{MAIN}/slides", bundle="tiny1")
    assert everything["total"] == 4
    assert [row["slide_id"] for row in everything["slides"]][-1] == "broken"
    assert everything["slides"][0]["bundle"] == "tiny1"
    page = got(client, f"{MAIN}/slides", bundle="tiny1", limit=3)
    rest = got(client, f"{MAIN}/slides", bundle="tiny1", limit=3, cursor=page["next_cursor"])
    assert page["slides"] + rest["slides"] == everything["slides"]
    assert rest["next_cursor"] is None
    some = got(client, f"{MAIN}/slides", site=["North", "South"], state="scored", min_score="", sort="slide_id")
    assert [row["slide_id"] for row in some["slides"]] == ["a", "b"]
    assert got(client, f"{MAIN}/slides", q="ü%2f")["slides"][0]["slide_id"] == STRANGE_ID


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "sort=uri",
        "order=up",
        "min_score=nan",
        "max_p=inf",
        "cursor=x",
        "unknown=1",
        "q=" + "x" * 201,
    ],
)
def test_a_wrong_query_is_one_problem(client: httpx.Client, query: str) -> None:
    answer = client.get(f"{MAIN}/slides?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/screenings/other/slides", "/v1/screenings/0123456789abcdef/slides", f"{MAIN}/slides?bundle=third",
        f"{MAIN}/slides/nobody", f"{MAIN}/slides/..%2Frun", f"{MAIN}/slides/.%2E%2Frun", f"{MAIN}/slides/a%00",
        f"{MAIN}/slides/broken/image/8/0_0", f"{MAIN}/slides/broken/heat/8/0_0", f"{MAIN}/slides/broken/at?x=1&y=1",
        f"{MAIN}/slides/broken/thumbnail", f"{MAIN}/slides/a/image/11/0_0", f"{MAIN}/slides/a/image/10/2_0",
        f"{MAIN}/slides/a/image/40/16777216_0", f"{MAIN}/slides/a/label", f"{MAIN}/slides/a/macro",
        f"{MAIN}/slides/a/heat/10/2_2", f"{MAIN}/slides/a/heat/10/0_0?bundle=x",
    ],
)  # fmt: skip
def test_what_is_not_there_is_404(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path", ["image/-1/0_0", "image/41/0_0", "image/9/0_99999999", "image/a/0_0", "image/9/x_0", "at", "at?x=-1&y=0",
             "at?x=1e9&y=0", "heat/9/0_0?threshold=inf", "at?x=0&y=99999999999999999999"],
)  # fmt: skip
def test_numbers_are_bounded(client: httpx.Client, path: str) -> None:
    assert client.get(f"{MAIN}/slides/a/{path}").status_code in (404, 422)


def test_a_slide_tells_all_that_its_pictures_need(client: httpx.Client, folder: Path) -> None:
    slide = got(client, f"{MAIN}/slides/{quote(STRANGE_ID, safe='')}")
    assert slide["slide_id"] == STRANGE_ID
    assert [record["bundle"] for record in slide["decisions"]] == ["tiny0", "tiny1"]
    record = json.loads((folder / "decisions" / f"{STRANGE_ID}.json").read_text())["decisions"][0]
    assert slide["decisions"][0] == record
    assert (slide["image"]["width"], slide["image"]["max_level"], slide["image"]["tile_px"]) == (700, 10, 512)
    assert slide["masks"] is True
    assert (slide["note"], slide["note_etag"]) == (None, None)
    broken = got(client, f"{MAIN}/slides/broken")
    assert (broken["image"], broken["masks"], broken["decisions"][0]["state"]) == (None, False, "failed")


def test_pictures_show_the_slide(client: httpx.Client) -> None:
    one = f"{MAIN}/slides/{quote(STRANGE_ID, safe='')}"
    assert picture(client.get(f"{one}/image/10/1_1")).shape == (188, 188, 3)
    assert picture(client.get(f"{one}/image/8/0_0")).shape == (175, 175, 3)
    for bundle in ("tiny0", "tiny1"):
        assert picture(client.get(f"{one}/heat/9/0_0", params={"bundle": bundle})).shape == (350, 350, 4)
        assert picture(client.get(f"{one}/heatmap", params={"bundle": bundle})).shape == (175, 175, 3)
    assert picture(client.get(f"{one}/heat/10/1_1", params={"threshold": 1e9})).max() == 0
    assert picture(client.get(f"{one}/thumbnail")).shape == (175, 175, 3)
    sheet = client.get(f"{one}/evidence")
    assert sheet.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in sheet.headers["content-security-policy"]
    assert b'id="tile_0"' in sheet.content


def test_a_picture_is_kept_for_good_if_its_version_is_named(client: httpx.Client) -> None:
    slide = got(client, f"{MAIN}/slides/a")
    versions = {
        "image/9/0_0": slide["image"]["version"],
        "heat/9/0_0": slide["version"],
        "thumbnail": slide["version"],
    }
    for path, version in versions.items():
        url = f"{MAIN}/slides/a/{path}"
        plain, named = client.get(url), client.get(url, params={"v": version})
        assert plain.content == named.content
        assert plain.headers["cache-control"] == "private, no-cache"
        assert named.headers["cache-control"] == "private, max-age=31536000, immutable"
        again = client.get(url, headers={"If-None-Match": f'"x", W/{plain.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get(url, params={"v": "another"}).status_code == 409
    other = client.get(f"{MAIN}/slides/a/heat/9/0_0", params={"bundle": "tiny1"})
    assert other.headers["etag"] != client.get(f"{MAIN}/slides/a/heat/9/0_0").headers["etag"]


def test_outlines_have_their_class_and_nothing_else(client: httpx.Client, folder: Path) -> None:
    told = got(client, f"{MAIN}/slides/a/layers")
    assert {feature["properties"]["class"] for feature in told["features"]} >= {"Tissue"}
    path = folder / "masks" / "b.geojson"
    ring = [[0, 0], [9, 0], [9, 9], [0, 0]]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"secret": 1}},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [0, 0]}},
        "nonsense", {"geometry": None},
    ]  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (only,) = got(client, f"{MAIN}/slides/b/layers")["features"]
    assert only["properties"] == {"class": "Tissue", "colour": None}
    good = path.read_text()
    for odd in (good.replace("9", "NaN", 1), good.replace("9", "1e999", 1), "[" * 5000, '{"features": 7}', '"x"', ""):
        path.write_text(odd)
        assert got(client, f"{MAIN}/slides/b/layers")["features"] == []


def test_scores_are_the_tables(client: httpx.Client, folder: Path) -> None:
    told = got(client, f"{MAIN}/slides/a/scores", bundle="tiny1")
    table = pq.read_table(folder / "tiny1" / "tiles" / "a.parquet")
    assert told["score"] == table["score"].to_pylist()
    assert told["x"] == table["x_level0_px"].to_pylist()
    assert set(told) == {"x", "y", "width", "height", "score", "flag", "error"}


def test_a_tile_is_shown_as_the_detector_saw_it(client: httpx.Client, folder: Path) -> None:
    table = pq.read_table(folder / "tiny0" / "tiles" / "a.parquet")
    table = table.filter(table["score"].is_valid())
    row = table.slice(len(table) // 2, 1).to_pylist()[0]
    first, second = got(client, f"{MAIN}/slides/a/at", x=row["x_level0_px"] + 5, y=row["y_level0_px"] + 5)
    assert (first["bundle"], first["tile_id"], first["score"]) == ("tiny0", row["tile_id"], row["score"])
    assert 0 <= first["above"] < 1
    assert first["normal_share"] is None  # the calibration is of an older version
    seen = picture_of(first["query"])
    assert seen.shape == (16, 16, 3)
    assert picture_of(first["reconstruction"]).shape == picture_of(first["residual"]).shape == seen.shape
    assert picture_of(first["outline"]).shape == (160, 160, 3)
    assert first["why"] is None
    assert (second["query"], second["bundle"]) == (None, "tiny1")
    assert "no bundle with this id" in second["why"]
    assert got(client, f"{MAIN}/slides/a/at", x=699, y=0) == []


def picture_of(uri: str) -> np.ndarray[Any, Any]:
    match = re.fullmatch(r"data:image/(?:png|jpeg);base64,(.+)", uri)
    assert match is not None
    return np.asarray(cv2.imdecode(np.frombuffer(base64.b64decode(match[1]), np.uint8), cv2.IMREAD_COLOR_RGB))


def test_notes_go_by_what_was_seen(client: httpx.Client) -> None:
    url = f"{MAIN}/slides/{quote(STRANGE_ID, safe='')}"
    body = {"flag": "follow_up", "text": "links <b>oben</b>\u202e"}
    assert client.put(f"{url}/note", json=body).status_code == 428
    assert client.put(f"{url}/note", json=body, headers={"If-Match": '"x"'}).status_code == 412
    made = client.put(f"{url}/note", json=body, headers={"If-None-Match": "*"})
    assert made.status_code == 200, made.text
    assert made.json()["note"] | {"when": ""} == {
        "flag": "follow_up", "text": "links <b>oben</b>", "who": "local", "when": "",
    }  # fmt: skip
    assert client.put(f"{url}/note", json=body, headers={"If-None-Match": "*"}).status_code == 412
    slide = got(client, url)
    assert (slide["note"], slide["note_etag"]) == (made.json()["note"], made.json()["etag"])
    again = client.put(f"{url}/note", json={"flag": "benign"}, headers={"If-Match": f'"{slide["note_etag"]}"'})
    assert again.json()["note"]["text"] == ""
    (row,) = got(client, f"{MAIN}/slides", flag="benign")["slides"]
    assert (row["slide_id"], row["note"]["flag"], row["used_for"]) == (STRANGE_ID, "benign", None)
    assert got(client, f"{MAIN}/slides")["facets"]["flag"] == {"none": 3, "benign": 1}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"flag": "bad"}', 422), ('{"text": 1}', 422), ('{"more": 1}', 422), ("[", 422), ("", 422),
        (json.dumps({"text": "x" * 2001}), 422),
    ],
)  # fmt: skip
def test_a_wrong_note_is_refused(client: httpx.Client, body: str, status: int) -> None:
    answer = client.put(f"{MAIN}/slides/a/note", content=body, headers={"If-None-Match": "*"})
    assert answer.status_code == status
    assert client.put(f"{MAIN}/slides/nobody/note", json={}, headers={"If-None-Match": "*"}).status_code == 404


def test_scopes(screened: Path, tmp_path: Path) -> None:
    scopes: tuple[Scope, ...] = ("read", "submit")
    tokens = FixedTokens(tuple(Token(scope, frozenset([scope]), digest(scope * 8)) for scope in scopes))
    out = shutil.copytree(screened / "out", tmp_path / "out")
    with client_of(out, slides=(), tokens=tokens) as client:
        for path in ("", "/main/slides", "/main/slides/a", "/main/slides/a/image/8/0_0", "/main/slides/a/at?x=1&y=1"):
            url = f"/v1/screenings{path}"
            assert client.get(url).status_code == 401
            assert client.get(url, headers={"Authorization": f"Bearer {'submit' * 8}"}).status_code == 403
        note = f"{MAIN}/slides/a/note"
        headers = {"If-None-Match": "*"}
        assert client.put(note, json={}, headers=headers).status_code == 401
        reader = {"Authorization": f"Bearer {'read' * 8}"}
        assert client.put(note, json={}, headers=headers | reader).status_code == 403
        writer = {"Authorization": f"Bearer {'submit' * 8}"}
        assert client.put(note, json={}, headers=headers | writer).status_code == 200
        assert client.get(f"{MAIN}/slides/a", headers=reader).json()["note"]["who"] == "submit"


def test_slides_are_opened_where_the_endpoint_may_read_alone(screened: Path, tmp_path: Path) -> None:
    out = shutil.copytree(screened / "out", tmp_path / "out")
    with client_of(out, slides=(str(tmp_path),)) as client:
        assert got(client, f"{MAIN}/slides/a")["image"] is None
        answer = client.get(f"{MAIN}/slides/a/image/8/0_0")
        assert answer.status_code == 403
        assert str(screened) not in answer.text
        assert client.get(f"{MAIN}/slides/a/thumbnail").status_code == 200


def test_a_slide_that_was_replaced_has_no_picture(screened: Path, tmp_path: Path) -> None:
    slides = Path(shutil.copytree(screened / "slides", tmp_path / "slides"))
    bundle = str(screened / "bundles" / "tiny0")
    row = SlideRow("a", str(slides / "phantom_000.tif"))
    small_screening.screen_here(str(tmp_path / "out"), [bundle], [row])
    with client_of(tmp_path / "out", slides=(str(tmp_path),), first=bundle) as client:
        assert client.get(f"{MAIN}/slides/a/image/8/0_0").status_code == 200
        shutil.copy(slides / "phantom_001.tif", slides / "phantom_000.tif")
    with client_of(tmp_path / "out", slides=(str(tmp_path),), first=bundle) as client:
        assert client.get(f"{MAIN}/slides/a/image/8/0_0").status_code == 409
        assert client.get(f"{MAIN}/slides/a/heat/8/0_0").status_code == 200


def test_older_folders_have_their_pictures_as_files(screened: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(screened / "out", tmp_path / "out"))
    jpeg = bytes(cv2.imencode(".jpg", np.zeros((4, 4, 3), np.uint8))[1])
    for folder in ("evidence", "tiny0/evidence"):
        (out / folder / "a").mkdir(parents=True)
    (out / "evidence" / "a" / "thumbnail.jpg").write_bytes(jpeg)
    for name in ("heatmap", "tile_0"):
        (out / "tiny0" / "evidence" / "a" / f"{name}.jpg").write_bytes(jpeg)
    path = out / "decisions" / "a.json"
    record = json.loads(path.read_text())
    for each in record["decisions"]:
        each["pictures"] = None
    path.write_text(json.dumps(record))
    with client_of(out, slides=()) as client:
        assert client.get(f"{MAIN}/slides/a/thumbnail").content == jpeg
        assert client.get(f"{MAIN}/slides/a/heatmap").content == jpeg
        assert client.get(f"{MAIN}/slides/a/heatmap?bundle=tiny1").status_code == 404
        assert b'id="tile_0"' in client.get(f"{MAIN}/slides/a/evidence").content


def test_a_picture_that_takes_too_long_is_504(screened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(*_: Any) -> bytes:
        await asyncio.sleep(30)
        return b""

    monkeypatch.setattr(SlideViews, "image", slow)
    with client_of(screened / "out", slides=(str(screened / "slides"),), timeout_s=0.2) as client:
        answer = client.get(f"{MAIN}/slides/a/image/8/0_0")
    assert answer.status_code == 504
    assert "0.2 s" in answer.json()["detail"]


def test_the_audit_line_names_the_whole_route_and_no_slide(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "uadray.serving.access.audit")
    for path in ("", "/image/8/0_0"):
        assert client.get(f"{MAIN}/slides/{quote(STRANGE_ID, safe='')}{path}").status_code == 200
    deadline, name = time.monotonic() + 5, "uadray.serving.access.audit"
    while len(lines := [json.loads(r.message) for r in caplog.records if r.name == name]) < 2:
        assert time.monotonic() < deadline  # a line is written when the answer is on its way
        time.sleep(0.01)
    one = "/v1/screenings/{screening}/slides/{slide_id}"
    assert [line["route"] for line in lines] == [one, f"{one}/image/{{level}}/{{x}}_{{y}}"]
    assert STRANGE_ID not in caplog.text
