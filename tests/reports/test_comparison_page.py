"""The page of models side by side: all of them, their last figures, why one failed, and nothing from elsewhere."""

import re
from typing import Any

import numpy as np
import pytest

from uadray.reports.comparison_page import Compared, comparison_page
from uadray.reports.pictures import encode_jpeg


def _lines(*frechet: float) -> list[dict[str, Any]]:
    return [
        {"epoch": i, "step": 5 * i + 5, "images_shown": 400 * (i + 1), "seconds": 20.0, "phase": "gan",
         "tiles_per_second": 20.0, "generator": 0.5 - i, "frechet_x": value, "validated": ["frechet_x"]}
        for i, value in enumerate(frechet)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    jpeg = encode_jpeg(np.full((8, 8, 3), 200, np.uint8))
    return comparison_page(
        "<out>",
        [
            Compared("dcgan", "dcgan", 16, {"generator": 1234567, "critic": 10}, _lines(90.0, 30.0, 40.0), "",
                     {"generated": jpeg, "interpolation": jpeg}, "dcgan/samples.html"),
            Compared("<b>wild", "wgan_gp", 16, {"generator": 5, "critic": 6}, [], "<i>no more disk"),
        ],
    )  # fmt: skip


def test_it_says_all_of_each(page: str) -> None:
    for text in ("1\u202f234\u202f567", "1\u202f200", "90.0 &rarr; <b>40.0</b>", "generator -1.50",
                 "1 failed", "failed: &lt;i&gt;no more disk", "frechet x", 'href="dcgan/samples.html"'):  # fmt: skip
        assert text in page, text
    assert "<td>1.00</td><td>20.0</td>" in page  # minutes, images a second
    assert page.count("data:image/jpeg;base64,") == 2


def test_it_needs_nothing_from_elsewhere(page: str) -> None:
    assert not re.search(r"https?://|<script|style=|<i>|<b>wild", page)
    assert page.count("<tr") == page.count("</tr>") == 3
    assert page.count("<svg") == page.count("</svg>")
