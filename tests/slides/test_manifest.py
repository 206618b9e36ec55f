"""Manifests: what is read, what is refused and in which words, and how long a million rows take."""

import csv
import io
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from seaweed import SeaweedServer

from uadray.errors import InputError, NotFoundError
from uadray.schemas import SLIDES
from uadray.slides.manifest import SlideRow, index, read_manifest, write_manifest
from uadray.slides.slide import Mpp
from uadray.storage import objects


def manifest(folder: Path, content: str | bytes, name: str = "manifest.csv") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_all_columns_by_hand(tmp_path: Path) -> None:
    uri = manifest(
        tmp_path,
        "slide_id,uri,label,mpp,tissue_cells,stain,patient_id,site,scanner,split\n"
        "a,a.tif,tumor,0.25,72,0,p1,UMCU,XR,train\n"
        "b , sub/b.tif,,,74,,,,,\n"
        "c,s3://bucket/c.svs,normal,1,1,1,,,,\n",
    )
    assert read_manifest(uri) == [
        SlideRow("a", f"{tmp_path}/a.tif", Mpp(0.25), "p1", "UMCU", "XR", "0", "train", "tumor"),
        SlideRow("b", f"{tmp_path}/sub/b.tif"),
        SlideRow("c", "s3://bucket/c.svs", Mpp(1.0), stain="1", label="normal"),
    ]


def test_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest(tmp_path, "slide_id,uri\na,a.tif\n")
    monkeypatch.chdir(tmp_path)
    assert read_manifest("manifest.csv") == [SlideRow("a", f"{tmp_path}/a.tif")]


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
    assert read_manifest(manifest(tmp_path, content)) == [SlideRow("ä", f"{tmp_path}/a.tif", Mpp(0.25))]


def test_commas_quotes_and_lines_in_cells(tmp_path: Path) -> None:
    uri = manifest(tmp_path, 'slide_id,uri,site\n"a,1","a ""b"".tif","two\nlines"\n')
    assert read_manifest(uri) == [SlideRow("a,1", f'{tmp_path}/a "b".tif', site="two\nlines")]


def test_parquet_as_pandas_writes_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"slide_id": ["a", "b"], "uri": ["a.tif", "b.tif"], "mpp": [0.5, None], "stain": [0, 1]})
    frame["split"] = pd.Categorical(["train", "test"])
    frame["other"] = 1
    out = io.BytesIO()
    frame.to_parquet(out)
    assert read_manifest(manifest(tmp_path, out.getvalue(), "m.parquet")) == [
        SlideRow("a", f"{tmp_path}/a.tif", Mpp(0.5), stain="0", split="train"),
        SlideRow("b", f"{tmp_path}/b.tif", stain="1", split="test"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"empty \(0 bytes\)"),
        ("slide_id,uri\n", "a header and no rows"),
        ("slide_id,uri", "a header and no rows"),
        ("slide_id,uri\n,\n , \n", "a header and no rows"),
        ("slide,uri\na,a.tif\n", "'slide_id' is missing; found 'slide', 'uri'; rename 'slide'?"),
        ("id,uri\na,a.tif\n", "'slide_id' is missing.*rename 'id'?"),
        ("slide_id,path\na,a.tif\n", "'uri' is missing; found 'slide_id', 'path'$"),
        ("\n", "'slide_id' is missing"),
        ("slide_id,uri,uri\na,a,b\n", "'uri' is there 2 times"),
        ("slide_id,uri,Label,label\na,a,tumor,\n", "'label' is there 2 times: 'Label', 'label'; keep one"),
        ("slide_id|uri\na|a.tif\n", r"'slide_id' is missing; found 'slide_id\|uri'$"),
        ("slide_id,uri\na,a.tif\nb,b.tif\na,c.tif\n", "slide_id 'a' is there 2 times: rows 2, 4"),
        ("slide_id,uri\na,a.tif\n,b.tif\n", "row 3: slide_id is empty"),
        ("slide_id,uri\na,a.tif\nb, \n", "row 3: uri is empty"),
        ("slide_id,uri,mpp\na,a.tif,0.5\nb,b.tif,half\n", "row 3: mpp 'half' is not a positive number"),
        ("slide_id,uri,mpp\na,a.tif,0\n", "row 2: mpp '0' is not a positive number"),
        ("slide_id,uri,mpp\na,a.tif,-1\n", "row 2: mpp '-1'"),
        ("slide_id,uri,mpp\na,a.tif,nan\n", "row 2: mpp 'nan'"),
        ("slide_id,uri,mpp\na,a.tif,inf\n", "row 2: mpp 'inf'"),
        ("slide_id,uri\na/b,a.tif\n", "row 2: slide_id 'a/b' cannot be a file name"),
        ("slide_id,uri\na\\b,a.tif\n", "cannot be a file name"),
        ("slide_id,uri\na\x07b,a.tif\n", "cannot be a file name"),
        ("slide_id,uri\na\u2028b,a.tif\n", "cannot be a file name"),
        ("slide_id,uri\na\u202egpj,a.tif\n", "cannot be a file name"),  # shown as "ajpg"
        ("slide_id,uri\n.hidden,a.tif\n", "cannot be a file name"),
        ("slide_id,uri\n..,a.tif\n", "cannot be a file name"),
        (f"slide_id,uri\n{'ä' * 101},a.tif\n", "longer than 200 bytes"),
        ("slide_id,uri\na,http://host/a.tif\n", "row 2: http://host/a.tif: http:// is not supported"),
        ("slide_id,uri\na,a.tif,more\n", "not a readable CSV: row 2 has 3 cells, the header has 2"),
        ("slide_id,uri,mpp\na,a.tif,1\n\nb,b.tif\n", "not a readable CSV: row 4 has 2 cells, the header has 3"),
        ('slide_id,uri,site\na,a.tif,A\nb,b.tif,"B\nc,c.tif,C\n', "row 3: a quote is opened there and not closed"),
        ('slide_id,uri,site\na,a.tif,"A\nb,b.tif,B\nc,c.tif,C"\n', "row 2: a cell of 3 lines seems to hold other rows"),
        ('slide_id,site,uri\na,"A,a.tif\nb,B",b.tif\n', "row 2: a cell of 2 lines seems to hold other rows"),
        ('slide_id,uri,notes\na,a.tif,"A\nb,b.tif,B"\n', "row 2: a cell of 2 lines seems to hold other rows"),
        ('slide_id,uri,"notes\na,a.tif,A\nb",b.tif,x\n', "row 2|header and no rows|seems to hold other rows"),
        ('slide_id,uri,site\na,a.tif,"A"B\n', "row 2: .*expected after"),
        (f'slide_id,uri,site\na,a.tif,"{"x" * 140_000}\n', "row 2: a quote is opened there and not closed"),
        ('slide_id,uri\na,"a.t\nif"\n', "row 2: uri 'a.t.nif' holds a line break or control character"),
        ('slide_id,uri,label\na,a.tif,"nor\nmal"\n', "row 2: label 'nor.nmal' holds a line break"),
        ('slide_id,uri,patient_id\na,a.tif,"p\r1"\n', "row 2: patient_id 'p.r1' holds a line break"),
        ("slide_id,uri,label\na,a.tif,nor\u2028mal\n", "row 2: label .* holds a line break"),
        ("sep=#\nslide_id#uri\na#a.tif\n", "sep=# is not supported"),
        ("slide_id,uri,mpp\na,a.tif,0_5\n", "row 2: mpp '0_5' is not a positive number"),
        (b"slide_id,uri\ra,a.tif\r\xe4,b.tif\r", "line 3 is not UTF-8; save"),
        ("slide_id,uri\na,a.tif\n\xe4,b.tif\n".encode("latin-1"), "line 3 is not UTF-8"),
        ("slide_id,uri\na,a.tif\n".encode("utf-16"), "line 1 is not UTF-8 but UTF-16; save the manifest as CSV UTF-8"),
        ("slide_id,uri\na,a.tif\n".encode("utf-16-le"), "line 1 is not UTF-8 but UTF-16"),
        (b"PAR1 and then nothing", "not a readable Parquet file"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    uri = manifest(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(uri)
    assert str(caught.value).startswith(uri)
    assert "\n" not in str(caught.value)


def test_parquet_is_checked_too(tmp_path: Path) -> None:
    def refused(table: pa.Table, message: str) -> None:
        out = io.BytesIO()
        pq.write_table(table, out)
        with pytest.raises(InputError, match=message):
            read_manifest(manifest(tmp_path, out.getvalue(), "m.parquet"))

    refused(pa.table({"slide_id": ["a"], "path": ["a.tif"]}), "'uri' is missing")
    refused(pa.table({"slide_id": pa.array([], pa.string()), "uri": pa.array([], pa.string())}), "no rows")
    refused(pa.table({"slide_id": ["a"], "uri": ["a.tif"], "mpp": [-0.5]}), "row 2: mpp -0.5")
    refused(pa.table({"slide_id": ["a", None], "uri": ["a.tif", "b.tif"]}), "row 3: slide_id is empty")
    refused(pa.table({"slide_id": [["a"]], "uri": ["a.tif"]}), "not a readable Parquet file")
    refused(pa.table({"slide_id": ["a"], "uri": ["a.tif"], "lable": ["tumor"]}), "'lable' looks like 'label'")
    refused(pa.table({"slide_id": [1.5], "uri": ["a.tif"]}), "'slide_id' holds floating-point numbers.*make it text")
    refused(pa.table({"slide_id": [2.0**53], "uri": ["a.tif"]}), "'slide_id' holds floating-point numbers")
    refused(pa.table({"slide_id": ["a"], "uri": ["a.tif"], "label": ["a\nb"]}), "row 2: label 'a.nb' holds a line")


def test_ids_of_parquet_are_exact(tmp_path: Path) -> None:
    """As integers they are; what pandas makes of integers beside missing values is read as those."""
    columns = {
        "slide_id": pa.array([2**60 + 1, 7]), "URI": ["a.tif", "b.tif"], "Patient ID": pa.array([12.0, None]),
        "label": pa.array([1, 2]).dictionary_encode(), "site": pa.array([float("nan"), 3.0]),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    first, second = read_manifest(str(tmp_path / "m.parquet"))
    assert (first.slide_id, first.patient_id, first.site, first.label) == (str(2**60 + 1), "12", None, "1")
    assert (second.slide_id, second.patient_id, second.site, second.label) == ("7", None, "3", "2")


@pytest.mark.parametrize(
    ("heading", "column"),
    [
        *((name, "label") for name in ("Label", "LABEL", " label ", "La bel")),
        *((name, "mpp") for name in ("MPP", "Mpp", "m-p-p")),
        *((name, "patient_id") for name in ("Patient_ID", "patient id", "PatientId", "PATIENT-ID", "patientid")),
        *((name, name.lower()) for name in ("Split", "SITE", "Scanner", "Stain")),
    ],
)
def test_headings_are_taken_as_meant(tmp_path: Path, heading: str, column: str) -> None:
    (row,) = read_manifest(manifest(tmp_path, f"slide_id,uri,{heading}\na,a.tif,1\n"))
    assert getattr(row, column) == (1.0 if column == "mpp" else "1")


@pytest.mark.parametrize(
    ("heading", "column"),
    [
        *((name, "label") for name in ("lable", "Labels", "lebel", "slide_label", "SlideLabel", "label:")),
        *((name, "mpp") for name in ("mppx", "mpp_x", "MPP (um)", "ppm", "mmp")),
        *((name, "patient_id") for name in ("patient", "Patients", "patinet_id", "patient id.")),
        ("spilt", "split"), ("sites", "site"), ("scaner", "scanner"), ("stian", "stain"),
    ],
)  # fmt: skip
def test_misspelt_headings_are_refused_by_name(tmp_path: Path, heading: str, column: str) -> None:
    """Not where the column they look like is there as well."""
    with pytest.raises(InputError, match=rf"column .* looks like '{column}', which is missing; rename it"):
        read_manifest(manifest(tmp_path, f"slide_id,uri,{heading}\na,a.tif,1\n"))
    (row,) = read_manifest(manifest(tmp_path, f"slide_id,uri,{heading},{column}\na,a.tif,x,2\n"))
    assert getattr(row, column) == (2.0 if column == "mpp" else "2")


def test_other_columns_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = [
        "size",
        "tissue_cells",
        "scan_date",
        "stage",
        "diagnosis",
        "primary_site",
        "patient_age",
        "level",
        "notes",
    ]
    uri = manifest(tmp_path, f",slide_id,uri,{','.join(others)},\n0,a,a.tif{',' * len(others)},\n")
    assert read_manifest(uri) == read_manifest(uri) == [SlideRow("a", f"{tmp_path}/a.tif")]
    assert caplog.text.count("columns are not read: " + ", ".join(map(repr, others))) == 1
    assert "columns without a heading are not read: 1" in caplog.text


def test_cells_of_several_lines_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = manifest(tmp_path, 'slide_id,uri,notes\na,a.tif,"two\nlines, and more"\nb,b.tif,\n')
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


def test_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no such file"):
        read_manifest(str(tmp_path / "none.csv"))


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1, max_size=20)
IDS = st.lists(
    TEXT.filter(lambda text: not set(text) & set("/\\") and not text.startswith(".")),
    min_size=1,
    max_size=5,
    unique=True,
)


@settings(deadline=None)
@given(ids=IDS, site=TEXT, mpp=st.none() | st.floats(1e-3, 100), suffix=st.sampled_from(["csv", "parquet"]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], site: str, mpp: float | None, suffix: str
) -> None:
    uri = str(tmp_path_factory.getbasetemp() / f"round.{suffix}")
    rows = [SlideRow(slide_id, f"s3://bucket/{slide_id}", mpp and Mpp(mpp), site=site) for slide_id in ids]
    write_manifest(rows, uri)
    assert read_manifest(uri) == rows


HOSTILE = [
    "..",
    ".",
    "/",
    "\\",
    "\0",
    "\n",
    "\u2028",
    "\u202e",
    "%2e%2e%2f",
    "s3://",
    "file:///",
    "~",
    " ",
    "ä" * 90,
    "a",
]


@settings(deadline=None)
@given(slide_id=st.text(max_size=20) | st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=5).map("".join))
def test_no_slide_id_leads_out_of_a_folder(tmp_path_factory: pytest.TempPathFactory, slide_id: str) -> None:
    """Ids come from outside, and results are named after them: one is refused, or is a name in its folder."""
    folder = tmp_path_factory.getbasetemp() / "ids"
    out = io.BytesIO()
    try:
        pq.write_table(pa.table({"slide_id": [slide_id], "uri": ["a.tif"]}), out)
    except UnicodeEncodeError:
        return  # half a character: no file can hold it
    objects.write_bytes(str(folder / "m.parquet"), out.getvalue())
    refused: InputError | None = None
    try:
        (row,) = read_manifest(str(folder / "m.parquet"))
    except InputError as error:
        refused = error
    if refused:
        assert len(str(refused).splitlines()) == 1
        return
    for root in ("s3://bucket/run", str(folder), folder.as_uri()):
        for file in (f"{row.slide_id}.json", f"{row.slide_id}.parquet", row.slide_id):
            uri = objects.join(root, "decisions", file)
            assert objects.resolve(uri, "/") == uri
            assert objects.parent(uri) == objects.join(root, "decisions")
            assert objects.name(uri) == file
    path = folder / "decisions" / f"{row.slide_id}.parquet"
    path.parent.mkdir(exist_ok=True)
    path.touch()  # and the disk takes it
    assert path in set(path.parent.iterdir())
    path.unlink()


def test_parquet_has_the_published_schema(tmp_path: Path) -> None:
    write_manifest([SlideRow("a", "/a.tif")], str(tmp_path / "m.parquet"))
    assert pq.read_schema(tmp_path / "m.parquet").equals(SLIDES)


def test_index_of_a_folder(tmp_path: Path) -> None:
    for name in [
        "a.svs",
        "p 1/b.SVS",
        "p 1/deep/b.tif",
        "p__1.svs",
        "two.svs",
        "two.tif",
        "._a.svs",
        ".x/y.svs",
        "n.txt",
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {row.slide_id: row.uri.removeprefix(f"{tmp_path}/") for row in index(str(tmp_path))} == {
        "a": "a.svs",
        "p 1__b": "p 1/b.SVS",
        "p 1__deep__b": "p 1/deep/b.tif",
        "p__1": "p__1.svs",
        "two.svs": "two.svs",
        "two.tif": "two.tif",
    }
    write_manifest(index(str(tmp_path)), str(tmp_path / "m.csv"))
    assert read_manifest(str(tmp_path / "m.csv")) == index(str(tmp_path))


def test_index_says_what_it_leaves_out(tmp_path: Path) -> None:
    """A name that is no UTF-8, links, and whatever is no slide by its suffix."""
    (tmp_path / "sub").mkdir()
    for name in (
        "a.svs",
        "sub/b.tif",
        "notes.txt",
        "more.TXT",
        "README",
        ".c.svs",
        "line\nbreak.svs",
        "é" * 120 + ".tif",
    ):
        (tmp_path / name).touch()
    Path(os.fsdecode(os.fsencode(tmp_path / "sub") + b"/d\xe9.svs")).touch()
    (tmp_path / "dead.svs").symlink_to("nowhere.svs")
    (tmp_path / "self.svs").symlink_to("self.svs")
    (tmp_path / "live.svs").symlink_to("sub/b.tif")
    (tmp_path / "linked").symlink_to("sub")
    os.mkfifo(tmp_path / "pipe.svs")
    left_out: dict[str, list[str]] = {}
    rows = index(str(tmp_path), left_out=left_out)
    assert [row.slide_id for row in rows] == ["a", "live", "sub__b"]
    assert {reason: sorted(paths) for reason, paths in left_out.items()} == {
        "its name is no UTF-8": ["sub/d\\xe9.svs"],
        "a link that leads nowhere": ["dead.svs", "self.svs"],
        "a link to a folder": ["linked"],
        "not a file": ["pipe.svs"],
        "hidden": [".c.svs"],
        "suffix .txt": ["more.TXT", "notes.txt"],
        "no suffix": ["README"],
        "its id would not be a file name": ["line\nbreak.svs"],
        "its id would have more than 200 bytes": ["é" * 120 + ".tif"],
    }
    write_manifest(rows, str(tmp_path / "m.csv"))
    assert read_manifest(str(tmp_path / "m.csv")) == rows


def test_index_takes_a_dicom_series_for_a_slide(tmp_path: Path, data_dir: Path) -> None:
    """Wherever its files lie together; the files of an MRXS slide are its own."""
    wsi = data_dir / "wsi"
    for name in ("one", "two", "m"):
        (tmp_path / name).mkdir()
    for copy in ("one/x0.dcm", "two/y.DCM"):
        shutil.copy(wsi / "boxes_0.dcm", tmp_path / copy)
    shutil.copy(wsi / "boxes_1.dcm", tmp_path / "one" / "x1.dcm")
    shutil.copy(wsi / "jpeg.dicom", tmp_path / "one" / "z.dicom")
    (tmp_path / "one" / "broken.dcm").write_bytes(b"no DICOM")
    (tmp_path / "m.mrxs").touch()
    (tmp_path / "m" / "Data0000.dat").touch()
    left_out: dict[str, list[str]] = {}
    rows = index(str(tmp_path), left_out=left_out)
    assert [row.slide_id for row in rows] == ["m", "one__x0", "one__z", "two__y"]
    assert left_out == {"no DICOM series can be read in it": ["one/broken.dcm"]}


def test_index_refuses_what_it_cannot_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no slides there"):
        index(str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.svs").touch()
    (tmp_path / "a__b.svs").touch()
    with pytest.raises(InputError, match=r"slide_id 'a__b\.svs' is there 2 times: /.*b\.svs"):
        index(str(tmp_path))


@pytest.mark.s3
def test_in_a_bucket(s3: SeaweedServer) -> None:
    root = f"s3://{s3.bucket}/index me"
    for key in ["one/a.svs", "b.tif", "readme.txt"]:
        objects.write_bytes(f"{root}/{key}", b"x")
    rows = index(root)
    assert {(row.slide_id, row.uri) for row in rows} == {("one__a", f"{root}/one/a.svs"), ("b", f"{root}/b.tif")}
    assert len(index(f"s3://{s3.bucket}")) >= 2
    for name in ["m.csv", "m.parquet"]:
        write_manifest(rows, f"{root}/{name}")
        assert read_manifest(f"{root}/{name}") == rows
    objects.write_bytes(f"{root}/relative.csv", b"slide_id,uri\na,one/a.svs\n")
    assert read_manifest(f"{root}/relative.csv") == [SlideRow("a", f"{root}/one/a.svs")]
    objects.write_bytes(f"{root}/local.csv", b"slide_id,uri\na,/etc/passwd\n")
    with pytest.raises(InputError, match="row 2: /etc/passwd: an absolute path in a manifest"):
        read_manifest(f"{root}/local.csv")
    with pytest.raises(InputError, match="no slides there"):
        index(f"s3://{s3.bucket}/nothing here")


def test_real_manifests(data_dir: Path) -> None:
    rows = read_manifest(str(data_dir / "mosaics" / "test" / "manifest.csv"))
    assert len(rows) == 16
    assert all(Path(row.uri).exists() and row.mpp == 0.972 and row.stain in ("0", "1") for row in rows)
    assert len(index(str(data_dir / "mosaics"))) >= 86


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("02_headings/mpp.csv", [("nompp", 0.5, None), ("s0", 0.25, None)]),
        ("02_headings/Label.csv", [(f"s{i}", None, "normal" if i < 5 else "tumor") for i in range(10)]),
        ("12_manifests/zeros.csv", [("007", 0.5, None), ("7", 0.5, None)]),
        ("12_manifests/ragged.csv", "row 3 has 2 cells, the header has 3"),
        ("12_manifests/utf16.csv", "line 1 is not UTF-8 but UTF-16; save the manifest as CSV UTF-8"),
    ],
)
def test_odd_manifests(data_dir: Path, name: str, expected: str | list[tuple[str, float | None, str | None]]) -> None:
    uri = str(data_dir / "cases" / name)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            read_manifest(uri)
    else:
        assert [(row.slide_id, row.mpp, row.label) for row in read_manifest(uri)] == expected


@pytest.mark.slow
def test_a_million_rows(tmp_path: Path) -> None:
    lines = [f"slide_{i},case {i % 1000}/slide_{i}.svs,0.25,patient_{i % 1000},test" for i in range(1_000_000)]
    uri = manifest(tmp_path, "slide_id,uri,mpp,patient_id,split\n" + "\n".join(lines))
    start = time.perf_counter()
    rows = read_manifest(uri)
    seconds = time.perf_counter() - start
    assert rows[-1].uri == f"{tmp_path}/case 999/slide_999999.svs"
    assert len(rows) == 1_000_000
    assert seconds < 60, f"{seconds:.0f} s"  # 5 s on two idle cores
