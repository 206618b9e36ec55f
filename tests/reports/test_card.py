"""The card of a bundle: what may come from anybody is shown as text, and the page is complete by itself."""

from uadray.reports.card import RESEARCH_USE, Section, card_markdown, card_page

HOSTILE = "<script>alert(1)</script> | `x` [a](http://b)\n# head\x1b[2J"
CARD = [
    Section("What it is", ["A detector."], ["not this"], [("name", HOSTILE), (HOSTILE, "value")]),
    Section("Limits", points=[HOSTILE, "Type `uadray evaluate`."]),
]


def test_markdown_shows_texts_as_they_are() -> None:
    text = card_markdown(HOSTILE, CARD)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# \\<script\\>alert(1)\\</script\\> \\| \\`x\\` \\[a\\](http://b) \\# head\\[2J", "## What it is", "## Limits",
    ]  # fmt: skip
    assert "\x1b" not in text
    assert text.count("<") == text.count("\\<")
    assert RESEARCH_USE in text
    assert "- not this" in text
    assert "- Type `uadray evaluate`." in text
    assert "\n\n\n" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {3}


def test_the_page_escapes_html_and_loads_nothing() -> None:
    page = card_page(HOSTILE, CARD)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 5  # title twice, name, value, point
    assert "default-src 'none'" in page
    assert "src=" not in page.replace("default-src", "").replace("style-src", "")
    assert RESEARCH_USE in page
