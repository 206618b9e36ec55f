"""The version of a slide's file."""

from pathlib import Path

import pytest

from uadray.errors import SlideError
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow


def test_etag(tmp_path: Path) -> None:
    slide_path = tmp_path / "s.tif"
    slide_path.write_bytes(b"any file has a version")
    assert slide_etag(SlideRow("s", str(slide_path))) == slide_etag(SlideRow("t", str(slide_path)))
    with pytest.raises(SlideError, match="slide s: ") as caught:
        slide_etag(SlideRow("s", str(tmp_path / "none.tif")))
    assert caught.value.reason == "missing"
