"""The client and the endpoint's own application, on a port, without Ray."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import endpoint_parts as parts
import numpy as np
import pytest
import serving_client

from uadray.client.client import Client
from uadray.errors import AccessError, InputError, NotFoundError
from uadray.serving.config import ServeConfig
from uadray.serving.jobs import Jobs
from uadray.serving.tokens import FixedTokens, Token, TokenSource, digest

TOKEN = serving_client.TOKEN


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return parts.write_calibrated(tmp_path_factory.mktemp("bundle"))


@contextmanager
def listening(bundle: str, out: Path, tokens: TokenSource, **fields: Any) -> Iterator[str]:
    """The URL of an endpoint with one bundle, `main`, on a free port."""
    config = ServeConfig(out=str(out), bundles={"main": bundle}, **fields)
    services = serving_client.plain_services(config, tokens=tokens, jobs=Jobs(config.out))
    with serving_client.listening(services) as port:
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
