"""Manifests: what is read, what is refused and in which words, and how long a million rows take."""

import io
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seaweed import SeaweedServer

from uadray import storage
from uadray.errors import InputError
from uadray.manifest import SlideRow, index, read_manifest, write_manifest
from uadray.schemas import SLIDES
from uadray.units import Mpp


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
        ("Slide_ID,uri\na,a.tif\n", "'slide_id' is missing.*rename 'Slide_ID'?"),
        ("id,uri\na,a.tif\n", "'slide_id' is missing.*rename 'id'?"),
        ("slide_id,path\na,a.tif\n", "'uri' is missing; found 'slide_id', 'path'$"),
        ("\n", "'slide_id' is missing"),
        ("slide_id,uri,uri\na,a,b\n", "'uri' is there 2 times"),
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
        ("slide_id,uri\na,a.tif,more\n", "not a readable CSV"),
        ("slide_id,uri\na,a.tif\n\xe4,b.tif\n".encode("latin-1"), "line 3 is not UTF-8"),
        ("slide_id,uri\na,a.tif\n".encode("utf-16"), "line 1 is not UTF-8"),
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


def test_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(storage.NotFoundError, match="there is no such file"):
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
    storage.write_bytes(str(folder / "m.parquet"), out.getvalue())
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
            uri = storage.join(root, "decisions", file)
            assert storage.resolve(uri, "/") == uri
            assert storage.parent(uri) == storage.join(root, "decisions")
            assert storage.name(uri) == file
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
        storage.write_bytes(f"{root}/{key}", b"x")
    rows = index(root)
    assert {(row.slide_id, row.uri) for row in rows} == {("one__a", f"{root}/one/a.svs"), ("b", f"{root}/b.tif")}
    assert len(index(f"s3://{s3.bucket}")) >= 2
    for name in ["m.csv", "m.parquet"]:
        write_manifest(rows, f"{root}/{name}")
        assert read_manifest(f"{root}/{name}") == rows
    storage.write_bytes(f"{root}/relative.csv", b"slide_id,uri\na,one/a.svs\n")
    assert read_manifest(f"{root}/relative.csv") == [SlideRow("a", f"{root}/one/a.svs")]
    storage.write_bytes(f"{root}/local.csv", b"slide_id,uri\na,/etc/passwd\n")
    with pytest.raises(InputError, match="row 2: /etc/passwd: an absolute path in a manifest"):
        read_manifest(f"{root}/local.csv")
    with pytest.raises(InputError, match="no slides there"):
        index(f"s3://{s3.bucket}/nothing here")


def test_real_manifests(data_dir: Path) -> None:
    rows = read_manifest(str(data_dir / "mosaics" / "test" / "manifest.csv"))
    assert len(rows) == 16
    assert all(Path(row.uri).exists() and row.mpp == 0.972 and row.stain in ("0", "1") for row in rows)
    assert len(index(str(data_dir / "mosaics"))) == 86


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
