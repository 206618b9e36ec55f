"""Manifests: what is read, what is refused and in which words, and how long a million rows take."""

import io
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seaweed import SeaweedServer
from slides.manifest_files import manifest_file

from uadray.errors import InputError, NotFoundError
from uadray.schemas import SLIDES
from uadray.slides.folder_index import index_folder
from uadray.slides.manifest import SlideRow, read_manifest, write_manifest
from uadray.slides.slide import Mpp
from uadray.storage import objects


def test_all_columns_by_hand(tmp_path: Path) -> None:
    uri = manifest_file(
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


def test_the_slides_of_one_split(tmp_path: Path) -> None:
    uri = manifest_file(tmp_path, "slide_id,uri,split\na,a.tif,train\nb,b.tif,Calib\nc,c.tif,\n")
    assert [row.slide_id for row in read_manifest(uri, split="calib")] == ["b"]
    assert len(read_manifest(uri)) == 3
    with pytest.raises(InputError, match=r"no slide is in the split 'test'; there are Calib, train$"):
        read_manifest(uri, split="test")
    with pytest.raises(InputError, match="it has none: `uadray split` makes some"):
        read_manifest(manifest_file(tmp_path, "slide_id,uri\na,a.tif\n"), split="test")


def test_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest_file(tmp_path, "slide_id,uri\na,a.tif\n")
    monkeypatch.chdir(tmp_path)
    assert read_manifest("manifest.csv") == [SlideRow("a", f"{tmp_path}/a.tif")]


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
    uri = manifest_file(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(uri)
    assert str(caught.value).startswith(uri)
    assert "\n" not in str(caught.value)


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


@pytest.mark.s3
def test_in_a_bucket(s3: SeaweedServer) -> None:
    root = f"s3://{s3.bucket}/index me"
    for key in ["one/a.svs", "b.tif", "readme.txt"]:
        objects.write_bytes(f"{root}/{key}", b"x")
    rows = index_folder(root)
    assert {(row.slide_id, row.uri) for row in rows} == {("one__a", f"{root}/one/a.svs"), ("b", f"{root}/b.tif")}
    assert len(index_folder(f"s3://{s3.bucket}")) >= 2
    for name in ["m.csv", "m.parquet"]:
        write_manifest(rows, f"{root}/{name}")
        assert read_manifest(f"{root}/{name}") == rows
    objects.write_bytes(f"{root}/relative.csv", b"slide_id,uri\na,one/a.svs\n")
    assert read_manifest(f"{root}/relative.csv") == [SlideRow("a", f"{root}/one/a.svs")]
    objects.write_bytes(f"{root}/local.csv", b"slide_id,uri\na,/etc/passwd\n")
    with pytest.raises(InputError, match="row 2: /etc/passwd: an absolute path in a manifest"):
        read_manifest(f"{root}/local.csv")
    with pytest.raises(InputError, match="no slides there"):
        index_folder(f"s3://{s3.bucket}/nothing here")


def test_real_manifests(data_dir: Path) -> None:
    rows = read_manifest(str(data_dir / "mosaics" / "test" / "manifest.csv"))
    assert len(rows) == 16
    assert all(Path(row.uri).exists() and row.mpp == 0.972 and row.stain in ("0", "1") for row in rows)
    assert len(index_folder(str(data_dir / "mosaics"))) >= 86


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
    uri = manifest_file(tmp_path, "slide_id,uri,mpp,patient_id,split\n" + "\n".join(lines))
    start = time.perf_counter()
    rows = read_manifest(uri)
    seconds = time.perf_counter() - start
    assert rows[-1].uri == f"{tmp_path}/case 999/slide_999999.svs"
    assert len(rows) == 1_000_000
    assert seconds < 60, f"{seconds:.0f} s"  # 5 s on two idle cores
