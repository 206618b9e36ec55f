"""The client and the endpoint's own application, on a port, without Ray."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import endpoint_parts as parts
import numpy as np
import pyarrow.parquet as pq
import pytest
import serving_client
from faulty_endpoint import free_port

from uadray.client.answers import Job
from uadray.client.client import Client
from uadray.cluster.workers import StreamConfig
from uadray.errors import AccessError, InputError, NotFoundError
from uadray.screening.bundles import calibrated_bundle
from uadray.screening.job import ScreenConfig, screen
from uadray.serving.access.tokens import FixedTokens, Token, TokenSource, digest
from uadray.serving.config import ServeConfig
from uadray.serving.jobs.queue import Jobs
from uadray.serving.jobs.slide_worker import SlideWorker
from uadray.slides.manifest import SlideRow

TOKEN = serving_client.TOKEN


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return parts.write_calibrated(tmp_path_factory.mktemp("bundle"))


SLIDE = "mosaics/small/small21_000.tif"


@contextmanager
def listening(bundle: str, out: Path, tokens: TokenSource, *, port: int = 0, **fields: Any) -> Iterator[str]:
    """The URL of an endpoint with one bundle, `main`."""
    config = ServeConfig(out=str(out), bundles={"main": bundle}, **fields)
    services = serving_client.plain_services(config, tokens=tokens, jobs=Jobs(config.out))
    with serving_client.listening(services, port=port) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def client(bundle: str, tmp_path: Path) -> Iterator[Client]:
    with (
        listening(bundle, tmp_path / "out", serving_client.all_scopes(TOKEN), max_tiles_per_request=8) as url,
        Client(url, TOKEN) as client,
    ):
        yield client


def test_tiles_have_the_scores_of_the_detector_however_they_are_sent(
    client: Client, bundle: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 255, (20, parts.TILE_PX, parts.TILE_PX, 3), np.uint8)
    expected = parts.detector_of("x", bundle)(tiles)
    scores = client.score(np.asfortranarray(tiles), maps=True, bundle="main", tiles_per_request=8)
    assert [each.id for each in scores] == [str(i) for i in range(20)]
    assert np.allclose([each.score for each in scores], expected.score, rtol=1e-5)
    assert np.allclose(np.stack([each.map for each in scores]), expected.maps(range(20)), rtol=1e-4, atol=1e-5)
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), tiles[i][..., ::-1])
    (tmp_path / "2.png").write_bytes(b"no picture")
    files = client.score([tmp_path / f"{i}.png" for i in range(3)])
    assert np.allclose([each.score for each in files[:2]], expected.score[:2], rtol=1e-5)
    assert (files[2].id, files[2].score, files[0].map) == ("2.png", None, None)
    assert files[2].error


def test_limits_are_said_in_a_line(client: Client) -> None:
    with pytest.raises(InputError, match=r"/v1/tiles/score: 413: .*at most 8 .*\(request "):
        client.score(np.zeros((9, parts.TILE_PX, parts.TILE_PX, 3), np.uint8))
    with pytest.raises(NotFoundError, match="no bundle is called 'other'"):
        client.score(np.zeros((1, parts.TILE_PX, parts.TILE_PX, 3), np.uint8), bundle="other")


def test_bundles(client: Client) -> None:
    (bundle,) = client.bundles()
    assert (bundle["name"], bundle["tile_px"], bundle["calibration"]["alpha"]) == ("main", parts.TILE_PX, 0.25)


def test_a_token_without_the_scope_or_a_wrong_one_is_refused_at_once(bundle: str, tmp_path: Path) -> None:
    reader = FixedTokens((Token("reader", frozenset({"read"}), digest("r")),))
    with listening(bundle, tmp_path, reader) as url:
        with Client(url, "r") as client:
            assert len(client.bundles()) == 1
            with pytest.raises(AccessError, match="403: this token lacks the scope score"):
                client.score(np.zeros((1, parts.TILE_PX, parts.TILE_PX, 3), np.uint8))
        with Client(url, "wrong") as client, pytest.raises(AccessError, match="401: missing or wrong token"):
            client.bundles()


@contextmanager
def working(out: Path) -> Iterator[None]:
    """A worker on the jobs of an endpoint's folder."""
    worker, stop = SlideWorker(Jobs(str(out)), parts.score_here), threading.Event()
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.ray
@pytest.mark.filterwarnings("default")  # of Ray, about itself
def test_a_slide_is_decided_as_by_a_screening(bundle: str, tmp_path: Path, data_dir: Path, ray_cluster: None) -> None:
    """The record that `screen` writes but for times and ids, over an endpoint that is started again meanwhile."""
    out, slide = tmp_path / "out", str(data_dir / SLIDE)
    tokens, port, seen = serving_client.all_scopes(TOKEN), free_port(), list[Job]()
    client = Client(f"http://127.0.0.1:{port}", TOKEN)
    with listening(bundle, out, tokens, slides=(str(data_dir),), port=port):
        job = client.submit(slide, slide_id="a", patient_id="p")
        assert client.submit_batch(slides=[{"uri": slide, "slide_id": "a"}]).counts["open"] == 1
        with pytest.raises(InputError, match="409: the slide is not decided yet"):
            client.decision(job)
        waiting = threading.Thread(target=lambda: client.wait(job, progress=seen.append))
        waiting.start()
        while not seen:
            time.sleep(0.01)
    with listening(bundle, out, tokens, slides=(str(data_dir),), port=port), working(out):
        waiting.join(60)
        decision, tiles = client.decision(job), client.tiles(job)
        shown = decision._repr_html_()
        everything = list(client.jobs())
    assert (seen[0].state, seen[-1].state, seen[-1].decisions[0].score) == ("waiting", "done", decision.only.score)
    client.close()
    assert shown.count("src='data:image/jpeg;base64,") == 2
    assert len(everything) == 2
    rows, config = [SlideRow("a", slide, patient_id="p")], ScreenConfig(stream=StreamConfig(score_workers=1, threads=1))
    screen(rows, bundles=[calibrated_bundle(bundle)], out=str(tmp_path / "screened"), config=config)
    record = json.loads((tmp_path / "screened" / "decisions" / "a.json").read_text())
    own = dict.fromkeys(("lease", "decided_at", "read_seconds", "score_seconds"))
    assert decision.record | own == record | own
    screened = pq.read_table(tmp_path / "screened" / "tiles" / "a.parquet")
    assert tiles.drop_columns(["score"]).equals(screened.drop_columns(["score"]))
    assert np.allclose(tiles["score"], screened["score"], rtol=1e-5, equal_nan=True)
