"""Parquet as manifest: as pandas writes it, checked, and ids to the last digit."""

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from slides.manifest_files import manifest_file

from uadray.errors import InputError
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.slides.slide import Mpp


def test_parquet_as_pandas_writes_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"slide_id": ["a", "b"], "uri": ["a.tif", "b.tif"], "mpp": [0.5, None], "stain": [0, 1]})
    frame["split"] = pd.Categorical(["train", "test"])
    frame["other"] = 1
    out = io.BytesIO()
    frame.to_parquet(out)
    assert read_manifest(manifest_file(tmp_path, out.getvalue(), "m.parquet")) == [
        SlideRow("a", f"{tmp_path}/a.tif", Mpp(0.5), stain="0", split="train"),
        SlideRow("b", f"{tmp_path}/b.tif", stain="1", split="test"),
    ]


def test_parquet_is_checked_too(tmp_path: Path) -> None:
    def refused(table: pa.Table, message: str) -> None:
        out = io.BytesIO()
        pq.write_table(table, out)
        with pytest.raises(InputError, match=message):
            read_manifest(manifest_file(tmp_path, out.getvalue(), "m.parquet"))

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
