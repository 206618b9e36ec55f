"""Headings of a manifest: what is taken as meant, what is refused by name, what is not read."""

from pathlib import Path

import pytest
from slides.manifest_files import manifest_file

from uadray.errors import InputError
from uadray.slides.manifest import SlideRow, read_manifest


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
    (row,) = read_manifest(manifest_file(tmp_path, f"slide_id,uri,{heading}\na,a.tif,1\n"))
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
        read_manifest(manifest_file(tmp_path, f"slide_id,uri,{heading}\na,a.tif,1\n"))
    (row,) = read_manifest(manifest_file(tmp_path, f"slide_id,uri,{heading},{column}\na,a.tif,x,2\n"))
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
    uri = manifest_file(tmp_path, f",slide_id,uri,{','.join(others)},\n0,a,a.tif{',' * len(others)},\n")
    assert read_manifest(uri) == read_manifest(uri) == [SlideRow("a", f"{tmp_path}/a.tif")]
    assert caplog.text.count("columns are not read: " + ", ".join(map(repr, others))) == 1
    assert "columns without a heading are not read: 1" in caplog.text
