"""The page of an evaluation: escaped, rounded, and complete by itself."""

from uadray.reports.evaluation_page import evaluation_page


def test_the_page_escapes_html() -> None:
    page = evaluation_page("<script>alert(1)</script>&", {"<b>key</b>": "<i>value</i>", "nested": {"<u>": None}})
    assert not any(tag in page for tag in ("<script", "<b>", "<i>", "<u>"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page
    assert "nested: &lt;u&gt;" in page


def test_the_page_rounds_and_says_what_is_missing() -> None:
    page = evaluation_page("t", {"auroc": 0.98765, "auroc_ci95": [0.9, 1.0], "tile_auroc": None, "n_normal": 12})
    for cell in ("0.988", "0.900 to 1.000", "<td>-</td>", "<td>12</td>", "auroc ci95"):
        assert cell in page
