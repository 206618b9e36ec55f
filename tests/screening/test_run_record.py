"""Whose screening a folder holds, and who is refused."""

import json
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import screening_drivers as sd
from fault_proxy import FaultProxy
from seaweed import SeaweedServer

from uadray.errors import InputError
from uadray.provenance import fingerprint
from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.run_record import claim_folder
from uadray.storage import objects


@pytest.mark.s3
def test_a_screening_is_not_begun_on_a_store_that_ignores_conditions(
    s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"s3://{s3.bucket}/unconditional"
    with FaultProxy(s3.endpoint, lambda r: "unconditional" if r.conditions else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(InputError, match="does not honour"):
            sd.book(out)
        assert list(objects.list_objects(out)) == []


def test_another_bundles_folder_is_refused(tmp_path: Path) -> None:
    sd.book(str(tmp_path))
    with pytest.raises(InputError, match="use another --out"):
        sd.book(str(tmp_path), sd.Bundle(id="other"))
    text = "holds a screening with bundle bundle, calibration cal; this is bundle other, calibration cal: use another"
    with pytest.raises(InputError, match=f"{text} --out$"):
        sd.book(str(tmp_path), sd.Bundle(id="other"))


def test_the_viewer_of_a_screening_is_recorded_and_can_be_given_anew(tmp_path: Path) -> None:
    claim = partial(claim_folder, str(tmp_path), sd.panel())
    assert claim(viewer="https://a/")["viewer"] == "https://a/"
    assert claim()["viewer"] == "https://a/"
    assert claim(viewer="https://b/#screening=x")["viewer"] == "https://b/#screening=x"
    with pytest.raises(InputError, match="--viewer b: expected the address"):
        claim(viewer="b")
    assert "viewer" not in claim_folder(str(tmp_path / "other"), sd.panel())


def test_the_layout_of_one_bundle_is_what_folders_have_had_before(tmp_path: Path) -> None:
    """Folders of earlier versions are gone on with, and earlier versions read what this one writes."""
    out, rows = str(tmp_path / "out"), sd.slides(tmp_path / "slides", 2)
    sd.screened(out, rows)
    record = json.loads(objects.read_bytes(f"{out}/run.json"))
    assert list(record) == [
        "fingerprint", "bundle_id", "bundle", "detector", "calibration_id", "bundle_uri", "tiles", "uadray_version",
        "commit", "started",
    ]  # fmt: skip
    assert record["fingerprint"] == fingerprint(["bundle", "cal"])
    decision = json.loads(objects.read_bytes(f"{out}/decisions/s00000.json"))
    assert list(decision) == [*SLIDE_DECISIONS.names, "lease"]
    (segment,) = objects.list_objects(f"{out}/segments")
    assert pq.read_schema(segment.uri).names == [*SLIDE_DECISIONS.names, "decision_etag"]
    folders = {path.name for path in Path(out).glob("[!.]*") if path.is_dir()}
    assert folders == {"decisions", "drivers", "evidence", "leases", "masks", "segments", "tiles"}
