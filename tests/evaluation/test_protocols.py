"""Protocols: the shipped files are valid and told, what does not fit is refused, slides get labels and splits."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from seaweed import SeaweedServer

from uadray.config import load_config
from uadray.errors import InputError
from uadray.evaluation.outlines import outline_uris, read_outlines
from uadray.evaluation.protocols import Protocol, judged_of, reported, slides_of
from uadray.storage import objects

FOLDER = Path(__file__).parents[2] / "configs" / "protocols"

BASE: dict[str, Any] = {
    "name": "small", "about": "a", "source": "b", "data": {"slides": "slides"}, "metrics": ["slide_auroc", "froc"],
}  # fmt: skip


def _load(tmp_path: Path, **changes: Any) -> Protocol:
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(BASE | changes))
    return load_config(Protocol, file)


def test_the_protocols_are_told() -> None:
    """Each has a row in the table beside them, and is named after its file."""
    rows = re.findall(r"^\| `(\w+\.yaml)`", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(path.name for path in FOLDER.glob("*.yaml"))
    for name in rows:
        assert load_config(Protocol, FOLDER / name).name == name.removesuffix(".yaml").replace("_", "-")


def test_camelyon_is_read_from_the_public_bucket() -> None:
    for path in FOLDER.glob("camelyon16_*.yaml"):
        data = load_config(Protocol, path).data
        assert {data.slides, data.outlines, data.reference} == {
            f"s3://camelyon-dataset/CAMELYON16/{place}"
            for place in ("images/", "annotations/", "evaluation/reference.csv")
        }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"metrics": ["frock"]}, "metrics.0"),
        ({"metrics": []}, "metrics"),
        ({"name": "../up"}, "name"),
        (
            {"tiles": {"cut": {"mpp": 1, "tile_px": 96}, "normal_per_slide": 1, "anomalous_per_slide": 1}},
            "metrics froc, slide_auroc are of whole slides",
        ),
        ({"data": {"slides": "a/m.csv", "labels": {"*": "normal"}}}, "go with a folder"),
        ({"split": "test"}, "split test is none of data.splits"),
        ({"splits": {}}, "splits: no such field"),
        ({"detections": {"by": "region"}}, "detections: Value error, threshold goes with by: region"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        _load(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def _camelyon(tmp_path: Path) -> Path:
    """A folder as the bucket's, without anything in its files."""
    names = ["images/normal_001.tif", "images/normal_027.tif", "images/tumor_001.tif", "images/readme.txt"]
    names += [f"images/test_{n:03d}.tif" for n in (1, 3, 114, 115, 122)]
    for name in names:
        path = tmp_path / "c16" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    reference = "image,class\ntest_001.tif,Tumor\ntest_003.tif,Normal\ntest_114.tif,Tumor\ntest_122.tif,negative\n"
    (tmp_path / "c16" / "reference.csv").write_text(reference)
    return tmp_path / "c16"


@pytest.mark.parametrize(
    ("file", "judged", "of_others"),
    [
        ("camelyon16_slides", ["test_001 tumor", "test_003 normal", "test_122 normal"], {"normal_027": "train"}),
        ("camelyon16_dpa", ["test_001 tumor", "test_003 normal", "test_122 normal"], {"tumor_001": "tumor"}),
        ("camelyon16_bmad", ["test_001 tumor", "test_003 normal"], {"test_122": "valid", "test_114": "valid"}),
    ],
)
def test_slides_of_camelyon(tmp_path: Path, file: str, judged: list[str], of_others: dict[str, str]) -> None:
    """test_115 is in no reference, and not judged; what the protocols leave out is not there at all."""
    protocol = load_config(Protocol, FOLDER / f"{file}.yaml")
    places = {"slides": "images", "outlines": "annotations", "reference": "reference.csv"}
    protocol = protocol.model_copy(update={"data": protocol.data.model_copy(update=places)})
    rows = slides_of(protocol, str(_camelyon(tmp_path)))
    assert [f"{row.slide_id} {row.label}" for row in judged_of(protocol, rows)] == judged
    assert {row.slide_id: row.split for row in rows}.items() >= of_others.items()
    assert not {row.slide_id for row in rows} & protocol.data.left_out.keys()
    assert next(row.label for row in rows if row.slide_id == "normal_001") == "normal"


def test_slides_of_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("slide_id,uri,label,split\na,a.tif,normal,test\nb,b.tif,,test\nc,c.tif,tumor,x\n")
    protocol = _load(tmp_path, data={"slides": "m.csv"}, split="test")
    rows = slides_of(protocol, str(tmp_path))
    assert [row.uri for row in rows] == [str(tmp_path / f"{name}.tif") for name in "abc"]
    assert [row.slide_id for row in judged_of(protocol, rows)] == ["a"]
    with pytest.raises(InputError, match=r"protocol small: .*m.csv has no slide with a label in the split none"):
        slides_of(_load(tmp_path, data={"slides": "m.csv"}, split="none"), str(tmp_path))


def test_a_reference_of_another_form_is_refused(tmp_path: Path) -> None:
    folder = _camelyon(tmp_path)
    (folder / "reference.csv").write_text("a,b\nc,d\n")
    protocol = _load(tmp_path, data={"slides": "images", "reference": "reference.csv", "labels": {"*": "normal"}})
    with pytest.raises(InputError, match=r"reference .*reference.csv: row 2: expected a slide and"):
        slides_of(protocol, str(folder))


def test_what_is_reported(tmp_path: Path) -> None:
    protocol = _load(tmp_path, metrics=["froc", "slide_auroc", "aupro"])
    figures = {"slide_auroc": 0.9, "froc": {"score": 0.5}, "other": 1}
    assert list(reported(protocol, figures).items()) == [
        ("froc", {"score": 0.5}), ("slide_auroc", 0.9), ("aupro", None),
    ]  # fmt: skip


@pytest.mark.s3
def test_a_bucket_is_read_as_a_folder(s3: SeaweedServer, tmp_path: Path) -> None:
    """Slides, reference and outlines, by requests that have no need of a local copy."""
    root = "s3://slides/protocols/CAMELYON16"
    for path in _camelyon(tmp_path).rglob("*.*"):
        objects.write_bytes(f"{root}/{path.relative_to(tmp_path / 'c16')}", path.read_bytes())
    ring = '<Coordinate X="0" Y="0"/><Coordinate X="64" Y="0"/><Coordinate X="64" Y="64"/>'
    xml = f'<ASAP_Annotations><Annotation PartOfGroup="_0">{ring}</Annotation></ASAP_Annotations>'
    objects.write_bytes(f"{root}/annotations/test_001.xml", xml.encode())
    protocol = load_config(Protocol, FOLDER / "camelyon16_slides.yaml")
    places = {"slides": f"{root}/images/", "reference": f"{root}/reference.csv"}
    protocol = protocol.model_copy(update={"data": protocol.data.model_copy(update=places)})
    judged = judged_of(protocol, slides_of(protocol, "nowhere"))
    assert [row.slide_id for row in judged] == ["test_001", "test_003", "test_122"]
    found = outline_uris({row.slide_id: row.uri for row in judged}, f"{root}/annotations/")
    assert read_outlines(found["test_001"]).area == 64**2 / 2
    assert read_outlines(found["test_003"]) is None
