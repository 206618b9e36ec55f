"""What goes to a cluster with the application."""

from datetime import UTC, datetime

from uadray.serving.access.tokens import FixedTokens, Token, digest, token_source
from uadray.serving.server import hashed


def test_tokens_travel_as_hashes() -> None:
    tokens = (
        Token("a", frozenset({"read", "score"}), digest("one"), datetime(2100, 1, 1, tzinfo=UTC)),
        Token("b", frozenset({"submit"}), digest("two")),
    )
    text = hashed(tokens)
    assert "one" not in text
    assert "two" not in text
    source = token_source(None, {"UADRAY_TOKENS": text})
    assert isinstance(source, FixedTokens)
    assert source.tokens == tokens
