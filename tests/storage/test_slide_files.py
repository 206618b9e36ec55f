"""Which files make up a slide: names from outside. Copying them is in `test_local_copies.py`."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uadray.errors import InputError
from uadray.storage import slide_files


def test_names_that_lead_elsewhere_are_refused() -> None:
    for path in ("../a", "a/../../b", "/a", "a//b", "a/", ".", "a\\b", "a\nb", "a\0", "\u202e", "x" * 256, ""):
        with pytest.raises(InputError, match="cannot be the name of a file"):
            slide_files._safe(path, "s3://bucket/a.mrxs")


@given(
    st.lists(st.sampled_from(["a", "..", ".", "/", "\\", "\n", "é", "", " ", "a.dat", "..."]), max_size=6).map("".join)
)
def test_no_name_leads_out_of_a_copy(path: str) -> None:
    with suppress(InputError):
        found = Path("/cache/copy/files", slide_files._safe(path, "s3://bucket/a.mrxs"))
        assert os.path.normpath(found) == str(found)
        assert found.is_relative_to("/cache/copy/files")
        assert found != Path("/cache/copy/files")


def test_a_key_file_cannot_hang_its_reader(tmp_path: Path) -> None:
    """A line of spaces took 16 s by configparser; of a key that is there twice in a group, the last counts."""
    path = tmp_path / "a.vmu"
    path.write_text("[a]\nImageFile=no.ngr\nImageFile=b.ngr\n[b]\nLayer" + " " * 60_000 + "x=1\n")
    (tmp_path / "b.ngr").write_bytes(b"b")
    start = time.process_time()
    assert [member.path for member in slide_files.slide_files(path.as_uri()).members] == ["slide.vmu", "b.ngr"]
    assert time.process_time() - start < 1
    path.write_text("[a]\nImageFile" + " " * 60_000 + "x\n")
    with pytest.raises(InputError, match="not a key file: line 2 is 'ImageFile"):
        slide_files.slide_files(path.as_uri())
    assert time.process_time() - start < 1
