"""Who is answered: whoever has the token, or without a token this machine alone."""

from collections.abc import Callable
from typing import Any

import pytest
from serving_client import PATH, TOKEN, request, serving

from uadray.tiles.images import Pixels


def test_the_token(
    bundles: dict[str, str], pixels: Pixels, encode: Callable[..., str], ask: Callable[..., Any]
) -> None:
    body = request(encode(pixels[0]))
    with serving(bundles["fanogan"], token=TOKEN) as port:
        for wrong in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": TOKEN},
        ):
            answer = ask(port, PATH, body, **wrong)
            assert answer.status == 401
            assert "Authorization: Bearer" in answer.body["error"]
        assert ask(port, PATH, b"{", Authorization="Bearer wrong").status == 401  # before the body is looked at
        assert ask(port, PATH, body, Authorization=f"Bearer {TOKEN}").status == 200
        assert ask(port, "/healthz").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "192.0.2.1"},
        {"X-Forwarded-Proto": "https"},
        {"Forwarded": "for=192.0.2.1"},
        {"X-Real-IP": "192.0.2.1"},
        {"Via": "1.1 proxy"},
        {"Host": "uadray.example.org"},
        {"Host": "192.0.2.7:8000"},
        {"Host": "localhost.example.org:8000"},
        {"Host": "[2001:db8::1]:8000"},
    ],
    ids=lambda headers: " ".join(f"{k}: {v}" for k, v in headers.items()),
)
def test_what_a_proxy_passes_on_needs_a_token(port: int, ask: Callable[..., Any], headers: dict[str, str]) -> None:
    """It comes from this machine, and whoever reaches the proxy has sent it."""
    answer = ask(port, PATH, b"{", **headers)
    assert answer.status == 401
    assert "UADRAY_TOKEN" in answer.body["error"]
    assert "\n" not in answer.body["error"]


def test_with_a_token_a_proxy_may_pass_requests_on(bundles: dict[str, str], ask: Callable[..., Any]) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "192.0.2.1", "Host": "uadray.example.org"}
    with serving(bundles["fanogan"], token=TOKEN) as port:
        assert ask(port, PATH, b"{", **headers).status == 422


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:1", "[::1]:8000"])
def test_names_of_this_machine_need_none(port: int, ask: Callable[..., Any], host: str) -> None:
    assert ask(port, PATH, b"{", Host=host).status == 422
