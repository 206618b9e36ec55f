"""Who is answered: whoever has the token, or without a token this machine alone."""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from serving_client import PATH, TOKEN, listening, plain_services, request, serving

from uadray.errors import InputError
from uadray.serving.access.callers import endpoint_tokens
from uadray.serving.access.tokens import SCOPES, FixedTokens, Scope, Token, digest
from uadray.serving.config import ServeConfig
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
            assert "Authorization: Bearer" in answer.body["detail"]
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
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=lambda headers: " ".join(f"{k}: {v}" for k, v in headers.items()),
)
def test_what_others_send_through_this_machine_needs_a_token(
    port: int, ask: Callable[..., Any], headers: dict[str, str]
) -> None:
    """Or a page of another site: it comes from this machine, and another has sent it."""
    answer = ask(port, PATH, b"{", **headers)
    assert answer.status == 401
    assert "UADRAY_TOKEN" in answer.body["detail"]
    assert "\n" not in answer.body["detail"]


def test_with_a_token_a_proxy_may_pass_requests_on(bundles: dict[str, str], ask: Callable[..., Any]) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "192.0.2.1", "Host": "uadray.example.org"}
    with serving(bundles["fanogan"], token=TOKEN) as port:
        assert ask(port, PATH, b"{", **headers).status == 422


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:1", "[::1]:8000"])
def test_names_of_this_machine_need_none(port: int, ask: Callable[..., Any], host: str) -> None:
    assert ask(port, PATH, b"{", Host=host).status == 422


@pytest.fixture(scope="module")
def scoped(bundles: dict[str, str]) -> Iterator[int]:
    """An endpoint with a token for each scope, called like it, and one that has expired."""
    now = datetime.now(UTC)
    tokens = [Token(scope, frozenset({scope}), digest(f"{scope}-token")) for scope in ("score", "submit", "read")]
    tokens += [Token("admin", SCOPES, digest("admin-token"), now + timedelta(hours=1))]
    tokens += [Token("old", SCOPES, digest("old-token"), now - timedelta(seconds=1))]
    with tempfile.TemporaryDirectory() as folder:
        config = ServeConfig(out=folder, bundles={"main": bundles["fanogan"], "other": bundles["dpa"]})
        with listening(plain_services(config, tokens=FixedTokens(tuple(tokens)))) as port:
            yield port


OPERATIONS: dict[Scope, tuple[str, str, int]] = {
    "score": ("POST", PATH, 422),
    "read": ("GET", "/v1/bundles", 200),
    "admin": ("PUT", "/v1/bundles/main", 422),
}
"""Of each scope an operation, and its answer to an empty body from whoever may ask."""


@pytest.mark.parametrize("name", ["score", "submit", "read", "admin", "old"])
@pytest.mark.parametrize("scope", OPERATIONS)
def test_a_token_allows_what_its_scopes_say(scoped: int, ask: Callable[..., Any], scope: Scope, name: str) -> None:
    method, path, allowed = OPERATIONS[scope]
    answer = ask(scoped, path, None if method == "GET" else b"", method=method, Authorization=f"Bearer {name}-token")
    if name == "old":
        assert answer.status == 401
        assert "expired" in answer.body["detail"]
        assert answer.headers["www-authenticate"] == 'Bearer realm="uadray", error="invalid_token"'
    elif name in ("admin", scope):
        assert answer.status == allowed
    else:
        assert (answer.status, answer.body["detail"]) == (403, f"this token lacks the scope {scope}")
        assert f'error="insufficient_scope", scope="{scope}"' in answer.headers["www-authenticate"]


def test_without_a_token_the_answer_says_how_to_send_one(scoped: int, ask: Callable[..., Any]) -> None:
    for headers in ({}, {"Authorization": "Bearer score"}, {"Authorization": "Bearer \u00e9"}):
        answer = ask(scoped, "/v1/bundles", **headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="uadray"')


def test_every_operation_but_two_wants_a_token(scoped: int, ask: Callable[..., Any]) -> None:
    """Whatever routes there are: a route that somebody forgets to guard is found here."""
    paths = ask(scoped, "/openapi.json", Authorization="Bearer read-token").body["paths"]
    operations = [(method, path) for path, item in paths.items() for method in item]
    assert len(operations) > 5
    open_to_all = []
    for method, path in operations:
        answer = ask(scoped, path.replace("{name}", "main"), method=method.upper())
        if answer.status != 401:
            open_to_all.append(path)
    assert sorted(open_to_all) == ["/healthz", "/readyz"]


def test_an_endpoint_without_any_token_must_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UADRAY_TOKEN", "UADRAY_TOKENS"):
        monkeypatch.delenv(name, raising=False)
    config = ServeConfig(out="o", bundles={"main": "b"})
    with pytest.raises(InputError, match="insecure: true"):
        endpoint_tokens(config)
    assert endpoint_tokens(config.model_copy(update={"insecure": True})) is None
    monkeypatch.setenv("UADRAY_TOKEN", "t")
    source = endpoint_tokens(config.model_copy(update={"insecure": True}))
    assert source is not None
    assert [token.name for token in source.current()] == ["token"]


def test_an_audit_line_says_who_asked_for_what_and_names_nothing(
    scoped: int, ask: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "uadray.serving.access.audit"):
        ask(scoped, "/v1/bundles/main", Authorization="Bearer read-token", **{"X-Request-ID": "trace-1"})
        ask(scoped, "/v1/bundles/main?uri=s3://bucket/key", Authorization="Bearer wrong")
        ask(scoped, "/v1/bundles/main", method="DELETE", Authorization="Bearer read-token")
        ask(scoped, "/healthz")
    lines = [record.getMessage() for record in caplog.records if record.name == "uadray.serving.access.audit"]
    told = [json.loads(line) for line in lines]
    assert [(t["who"], t["method"], t["status"]) for t in told] == [
        ("read", "GET", 200), (None, "GET", 401), ("read", "DELETE", 403),
    ]  # fmt: skip
    assert {t["route"] for t in told} == {"/v1/bundles/{name}"}
    assert told[0]["what"] == {"name": digest("main")[:8]}
    assert told[0]["request_id"] == "trace-1"
    assert told[0]["bytes"] > 100
    assert told[0]["ms"] >= 0
    assert datetime.now(UTC) - datetime.fromisoformat(told[0]["when"]) < timedelta(minutes=1)
    assert not any(word in line for line in lines for word in ("-token", "wrong", "s3://", "main"))
