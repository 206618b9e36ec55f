"""Tokens of a file and of the environment: strict, rotated while requests run, and never told to anybody."""

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from uadray.errors import InputError
from uadray.serving.access.tokens import SCOPES, FixedTokens, TokenFile, digest, found, token_source

HEX = digest("one")


def names(source: FixedTokens | TokenFile) -> dict[str, set[str]]:
    return {token.name: set(token.scopes) for token in source.current()}


def written(path: Path, text: str) -> str:
    """A token file, as its owner alone can read it."""
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def test_hashes_and_plain_tokens_with_scopes_and_expiry(tmp_path: Path) -> None:
    path = written(
        tmp_path / "t.yaml",
        f"- {{name: a, scopes: [read], sha256: {HEX.upper()}, expires: 2027-01-01}}\n"
        "- {name: b, scopes: [admin], token: two, expires: 2027-01-01T12:00:00+02:00}\n",
    )
    source = TokenFile(path)
    assert names(source) == {"a": {"read"}, "b": set(SCOPES)}
    one, two = source.current()
    assert found("one", source.current()) == one
    assert found("two", source.current()) == two
    assert found("three", source.current()) is None
    assert one.expires == datetime(2027, 1, 1, tzinfo=UTC)
    assert two.expires == datetime(2027, 1, 1, 10, tzinfo=UTC)
    assert one.is_expired(datetime(2027, 1, 1, tzinfo=UTC))
    assert not one.is_expired(datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
    assert "two" not in repr(source.current())


def test_a_changed_file_holds_at_once_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.yaml"
    source = TokenFile(written(path, f"- {{name: a, scopes: [read], sha256: {HEX}}}"))
    written(path, "- {name: b, scopes: [score], token: two}")
    assert names(source) == {"b": {"score"}}
    other = tmp_path / "new"
    written(other, "- {name: c, scopes: [score], token: 222}".replace("222", "'222'"))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)  # as a mounted secret is: another file, which may have the same time and size
    assert names(source) == {"c": {"score"}}
    for broken in ("- {name: d, scopes: [", "[]", "", "- {name: d, scopes: [root], token: very-secret}"):
        caplog.clear()
        written(path, broken)
        for _ in range(3):
            assert names(source) == {"c": {"score"}}
        assert len([r for r in caplog.records if "the tokens before are kept" in r.getMessage()]) == 1
        assert "very-secret" not in caplog.text
    path.unlink()
    assert names(source) == {"c": {"score"}}
    written(path, "- {name: e, scopes: [read], token: five}")
    assert names(source) == {"e": {"read"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {name: a, scopes: [read]}", "give either sha256 or token"),
        (f"- {{name: a, scopes: [read], token: hidden-word, sha256: {HEX}}}", "give either sha256 or token"),
        ("- {name: a, scopes: [], token: hidden-word}", "0.scopes"),
        ("- {name: a, scopes: [reed], token: hidden-word}", "0.scopes.0"),
        ("- {name: 'a b', scopes: [read], token: hidden-word}", "0.name"),
        ("- {name: a, scopes: [read], sha256: hidden-word}", "0.sha256"),
        ("- {name: a, scopes: [read], tokens: hidden-word}", "0.tokens: Extra inputs"),
        ("- {name: a, scopes: [read], token: hidden-word, expires: soon}", "0.expires"),
        ("- {name: a, scopes: [read], token: x}\n- {name: a, scopes: [read], token: y}", "same name"),
        ("[]", "at least one token is needed"),
        ("hidden-word", "the whole"),
        ("- {name: a, token: hidden-word", "not valid YAML, line 1"),
        ("- !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_said_without_the_value(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        TokenFile(written(tmp_path / "t.yaml", text))
    assert words in str(refused.value)
    assert "hidden-word" not in str(refused.value)
    with pytest.raises(InputError, match="UADRAY_TOKENS"):
        token_source(None, {"UADRAY_TOKENS": text})


def test_files_that_are_missing_too_large_or_open_to_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="No such file"):
        TokenFile(str(tmp_path / "none"))
    with pytest.raises(InputError, match="more than"):
        TokenFile(written(tmp_path / "large", "#" * 2**21))
    path = tmp_path / "open.yaml"
    path.write_text("- {name: a, scopes: [read], token: x}")
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        TokenFile(str(path))
    assert "chmod 600" in caplog.text


def test_the_environment_has_one_token_or_a_list(tmp_path: Path) -> None:
    assert token_source(None, {}) is None
    assert token_source(None, {"UADRAY_TOKEN": "  "}) is None
    both = token_source(None, {"UADRAY_TOKEN": " t \n", "UADRAY_TOKENS": "- {name: a, scopes: [read], token: x}"})
    assert isinstance(both, FixedTokens)
    assert names(both) == {"a": {"read"}, "token": set(SCOPES)}
    assert found("t", both.current()) is not None
    file = written(tmp_path / "t.yaml", "- {name: f, scopes: [read], token: x}")
    from_file = token_source(file, {"UADRAY_TOKEN": "t"})
    assert isinstance(from_file, TokenFile)
    assert names(from_file) == {"f": {"read"}}


def test_rotation_under_a_clock(tmp_path: Path) -> None:
    """A token with a date behind it beside its successor: both are known, one has expired."""
    now = datetime.now(UTC)
    text = (
        f"- {{name: old, scopes: [read], token: one, expires: {now - timedelta(days=2):%Y-%m-%d}}}\n"
        f"- {{name: new, scopes: [read], token: two, expires: {now + timedelta(days=2):%Y-%m-%d}}}\n"
    )
    tokens = TokenFile(written(tmp_path / "t.yaml", text)).current()
    assert [token.is_expired(now) for token in tokens] == [True, False]
