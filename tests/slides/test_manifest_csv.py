"""The CSV of a manifest: what writers make of it is read as meant, or refused."""

import csv
import io
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from slides.manifest_files import manifest_file

from uadray.errors import InputError
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.slides.slide import Mpp


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfslide_id;uri;mpp\r\n\xc3\xa4;a.tif;0,25\r\n;;\r\n",  # a spreadsheet in Germany
        "slide_id\turi\tmpp\nä\ta.tif\t0.25\n",
        '"slide_id","uri","mpp"\n"ä","a.tif","0.25"\n\n',
        "uri,slide_id,mpp\na.tif,ä,.25",
        "slide_id,uri,mpp\rä,a.tif,0.25\r",  # a Macintosh of old
        "slide_id\turi\tmpp\r\nä\ta.tif\t0,25\r\n",
        "sep=;\r\nslide_id;uri;mpp\r\nä;a.tif;0,25\r\n",
        '"sep=,"\nslide_id,uri,mpp\nä,a.tif,0.25\n',
        "\ufeffSEP=\t\nslide_id\turi\tmpp\nä\ta.tif\t0.25\n",
        'slide_id, uri, mpp\nä, "a.tif", 0.25\n',
        "slide_id,uri,mpp,notes; of all; kinds; and; sorts\nä,a.tif,0.25,\n",
        "Slide ID,URI,M_P-P\nä,a.tif,0.25\n",
    ],
)
def test_dialects(tmp_path: Path, content: str | bytes) -> None:
    assert read_manifest(manifest_file(tmp_path, content)) == [SlideRow("ä", f"{tmp_path}/a.tif", Mpp(0.25))]


def test_commas_quotes_and_lines_in_cells(tmp_path: Path) -> None:
    uri = manifest_file(tmp_path, 'slide_id,uri,site\n"a,1","a ""b"".tif","two\nlines"\n')
    assert read_manifest(uri) == [SlideRow("a,1", f'{tmp_path}/a "b".tif', site="two\nlines")]


def test_cells_of_several_lines_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = manifest_file(tmp_path, 'slide_id,uri,notes\na,a.tif,"two\nlines, and more"\nb,b.tif,\n')
    assert [row.slide_id for row in read_manifest(uri)] == ["a", "b"]
    assert "1 cells hold line breaks, the first in row 2" in caplog.text


CELLS = st.text("ab1é ,;\t\"'|=\n\r\\\u2028", max_size=6)


LINE = st.text("ab1é ,;\"'|=", min_size=1, max_size=6).filter(lambda text: bool(text.strip()))


ROW = st.tuples(LINE, LINE | CELLS, LINE | CELLS, CELLS)


WRITTEN = st.lists(ROW, min_size=1, max_size=6, unique_by=lambda row: row[0].strip())


@settings(deadline=None, max_examples=200)
@given(
    cells=WRITTEN, separator=st.sampled_from(",;\t"), line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    start=st.sampled_from(["", "\ufeff", "sep=", "\ufeffsep="]),
)  # fmt: skip
@example(cells=[("a", "x", "", "A"), ("b", "y", "", '"B')], separator=",", line_end="\r", quoting=0, start="")
def test_what_csv_writers_write_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    cells: list[tuple[str, ...]], separator: str, line_end: str, quoting: int, start: str,
) -> None:  # fmt: skip
    """Every row as it was, but for blanks around cells; or none, with one line that says why."""
    out = io.StringIO(newline="")
    if start.endswith("sep="):
        start += separator + line_end
    out.write(start)
    writer = csv.writer(out, delimiter=separator, lineterminator=line_end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("slide_id", "uri", "label", "site"), *((a, f"s3://b/{b}", c, d) for a, b, c, d in cells)])
    uri = str(tmp_path_factory.getbasetemp() / "written.csv")
    Path(uri).write_bytes(out.getvalue().encode())
    refused: InputError | None = None
    try:
        found = read_manifest(uri)
    except InputError as error:
        refused = error
    event("refused" if refused else "read")
    if refused:
        assert len(str(refused).splitlines()) == 1
        assert str(refused).startswith(uri)
        return
    expected = [(a.strip(), f"s3://b/{b}".strip(), c.strip() or None, d.strip() or None) for a, b, c, d in cells]
    assert [(row.slide_id, row.uri, row.label, row.site) for row in found] == expected


@given(st.binary(max_size=60) | st.text('ab,;"\n\r', max_size=40).map(lambda text: f"slide_id,uri\n{text}".encode()))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    uri = str(tmp_path_factory.getbasetemp() / "any.csv")
    Path(uri).write_bytes(data)
    with suppress(InputError):
        assert read_manifest(uri)
