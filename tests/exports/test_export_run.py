"""Exports of whole screenings: what is made, what is left, what is told; killed, and run again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_exports import made_screening

from uadray.bench.export_material import decision_of, scores_in_patches, tiles_of
from uadray.errors import InputError, WorkError
from uadray.exports.exported_slide import ExportOptions
from uadray.exports.made import RECORDS
from uadray.exports.run import export


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each exported file: another where it was made again."""
    paths = [path for path in folder.rglob("*") if path.is_file() and RECORDS not in path.parts]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def _counts(summary: dict[str, Any]) -> tuple[int, int, int]:
    return summary["made"], summary["already_there"], len(summary["failed"])


def test_only_what_is_missing_or_out_of_date_is_made(tmp_path: Path) -> None:
    out, to = made_screening(tmp_path / "out"), tmp_path / "to"
    summary = export(out, "csv", to=str(to))
    assert _counts(summary) == (4, 0, 0)
    assert (summary["slides"], summary["without_scores"]) == (4, 1)
    first = _files(to)
    assert sorted(first) == [f"model-outputs-csv/s{i}.csv" for i in range(4)]
    assert summary["bytes"] == sum((to / path).stat().st_size for path in first)
    assert _counts(export(out, "csv", to=str(to))) == (0, 4, 0)
    (to / "model-outputs-csv/s1.csv").unlink()
    (to / "model-outputs-csv/s2.csv").write_text("cut short")
    changed = decision_of("s3", score=9.0) | {"lease": "x.1"}
    (tmp_path / "out/decisions/s3.json").write_text(json.dumps(changed))
    assert _counts(export(out, "csv", to=str(to))) == (3, 1, 0)
    again = _files(to)
    assert {path for path in first if again[path] == first[path]} == {"model-outputs-csv/s0.csv"}
    assert _counts(export(out, "csv", ExportOptions(coordinates="qupath"), to=str(to))) == (4, 0, 0)
    assert len(list((to / RECORDS).iterdir())) == 1


def test_faults_of_slides_are_named_and_the_others_finished(tmp_path: Path) -> None:
    out = made_screening(tmp_path / "out")
    (tmp_path / "out/tiles/s1.parquet").unlink()
    (tmp_path / "out/tiles/s2.parquet").unlink()  # a link: others have the same file
    (tmp_path / "out/tiles/s2.parquet").write_bytes(b"no Parquet")
    summary = export(out, "hdf5")
    assert _counts(summary) == (2, 0, 2)
    assert summary["failed"]["s1"].startswith("missing: its tile scores are not there")
    assert summary["failed"]["s2"].startswith("unreadable: ")
    assert summary["to"] == f"{out}/exports/hdf5"
    pq.write_table(tiles_of("s1", scores_in_patches(3, 0)), tmp_path / "out/tiles/s1.parquet")
    assert _counts(export(out, "hdf5")) == (1, 2, 1)


def test_a_place_that_takes_no_files_ends_the_export(tmp_path: Path) -> None:
    out, to = made_screening(tmp_path / "out", 9), tmp_path / "to"
    to.mkdir()
    (to / "model-outputs-csv").write_text("a file where a folder should be")
    with pytest.raises(WorkError, match="3 slides in a row were not exported"):
        export(out, "csv", to=str(to))
    (to / "model-outputs-csv").unlink()
    assert _counts(export(out, "csv", to=str(to))) == (9, 0, 0)


def test_ids_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    pq.write_table(tiles_of("../../away", scores_in_patches(3, 0)), path)
    summary = export(str(path), "csv", to=str(tmp_path / "a/b/c"))
    assert summary["failed"]["../../away"].startswith("bad_id: a slide id like this would not be a file name")
    assert not _files(tmp_path / "a")


def test_which_slides(tmp_path: Path) -> None:
    out = made_screening(tmp_path / "out")
    assert export(out, "csv", to=str(tmp_path / "a"), anomalous_only=True)["made"] == 2
    assert sorted(_files(tmp_path / "a")) == ["model-outputs-csv/s0.csv", "model-outputs-csv/s2.csv"]
    assert export(out, "csv", to=str(tmp_path / "b"), only=["s3"])["made"] == 1
    with pytest.raises(InputError, match=r"no slide 'x' was screened there"):
        export(out, "csv", to=str(tmp_path / "b"), only=["s3", "x"])
    with pytest.raises(InputError, match="there is no screening"):
        export(str(tmp_path / "nothing"), "csv")
    with pytest.raises(InputError, match="no format 'doc'; there are: wsinfer-csv"):
        export(out, "doc")


def test_a_qupath_project_lists_what_was_exported(tmp_path: Path) -> None:
    out, to = made_screening(tmp_path / "out"), tmp_path / "to"
    (tmp_path / "out/tiles/s1.parquet").unlink()
    export(out, "qupath-project", to=str(to))
    slides = json.loads((to / "slides.json").read_text())["slides"]
    assert [slide["name"] for slide in slides] == ["s0", "s2", "s3"]
    assert all((to / "geojson" / slide["geojson"]).is_file() for slide in slides)
    assert f"'{to}'" in (to / "make_project.groovy").read_text()


def test_scores_of_slides_as_uadray_score_writes_them(tmp_path: Path) -> None:
    tables = [tiles_of(f"s{i}", scores_in_patches(4 + i, i)) for i in range(3)]
    path = tmp_path / "scores.parquet"
    pq.write_table(pa.concat_tables(tables), path, row_group_size=20)
    summary = export(str(path), "csv")
    assert _counts(summary) == (3, 0, 0)
    folder = tmp_path / "scores-wsinfer-csv/model-outputs-csv"
    assert [len((folder / f"s{i}.csv").read_text().splitlines()) for i in range(3)] == [17, 26, 37]
    assert (folder / "s0.csv").read_text().startswith("minx,miny,width,height,prob_score\n")
    assert _counts(export(str(path), "csv")) == (0, 3, 0)
    assert _counts(export(str(path), "geojson", ExportOptions(threshold=1.0), only=["s1"])) == (1, 0, 0)
    with pytest.raises(InputError, match="give --threshold or --bundle"):
        export(str(path), "geojson")
    pq.write_table(pa.concat_tables([tables[0], tables[1], tables[0]]), path)
    with pytest.raises(InputError, match="the rows of slide s0 are not together"):
        export(str(path), "csv")


def test_a_bundle_of_several_has_a_folder_of_its_own(tmp_path: Path) -> None:
    made_screening(tmp_path / "out" / "one", 2)
    top = tmp_path / "out"
    record = json.loads((top / "one/run.json").read_text())
    bundles = [
        {"folder": name, "name": name, "id": f"id-{name}", "detector": "dpa", "calibration": "c1"}
        for name in ("one", "two")
    ]
    kept = {key: value for key, value in record.items() if key in ("fingerprint", "uadray_version", "tiles")}
    (top / "run.json").write_text(json.dumps(kept | {"bundles": bundles}))
    (top / "one/run.json").unlink()
    (top / "one/tiles").rename(top / "tiles-of-both")
    (top / "decisions").mkdir()
    for name in ("one", "two"):
        (top / name).mkdir(exist_ok=True)
        (top / name / "tiles").symlink_to(top / "tiles-of-both")
    for path in (top / "one/decisions").iterdir():
        row = json.loads(path.read_text())
        both = [row | {"bundle": "one"}, row | {"bundle": "two", "decision": "normal"}]
        (top / "decisions" / path.name).write_text(
            json.dumps({"slide_id": row["slide_id"], "fingerprint": "f", "lease": "x.1", "decisions": both})
        )
    summary = export(str(top), "csv", to=str(tmp_path / "to"))
    assert (summary["made"], summary["bundles"]["two"]["made"]) == (4, 2)
    assert sorted(_files(tmp_path / "to"))[0] == "one/model-outputs-csv/s0.csv"
    alone = export(str(top / "two"), "csv", to=str(tmp_path / "alone"), anomalous_only=True)
    assert (alone["made"], alone["slides"]) == (0, 0)


KILLED = """
import sys
from uadray.exports import made, run
made.PUT_EVERY_S = 0.02
if __name__ == "__main__":
    run.export(sys.argv[1], "geojson", to=sys.argv[2], processes=1)
"""


def test_killed_and_run_again_nothing_is_lost_and_little_made_twice(tmp_path: Path) -> None:
    out, to = made_screening(tmp_path / "out", 300, side=30), tmp_path / "to"
    (tmp_path / "export.py").write_text(KILLED)
    process = subprocess.Popen([sys.executable, str(tmp_path / "export.py"), out, str(to)])
    deadline = time.monotonic() + 60
    while len(list((to / RECORDS).glob("*.parquet")) if to.exists() else []) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = _files(to)
    whole = [path for path in before if path.endswith(".geojson")]
    assert 0 < len(whole) < 300
    summary = export(out, "geojson", to=str(to), processes=1)
    assert summary["made"] + summary["already_there"] == 300
    assert 0 < summary["already_there"] <= len(whole)
    for path in (to / "geojson").glob("*.geojson"):
        assert json.loads(path.read_text())["type"] == "FeatureCollection"
    kept = [path for path in whole if _files(to)[path] == before[path]]
    assert len(kept) == summary["already_there"]


def test_several_processes_make_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = made_screening(tmp_path / "out", 12)
    monkeypatch.setattr("uadray.exports.workers.WORTH_A_PROCESS", 4)
    seen: list[tuple[int, int]] = []
    export(
        out, "csv", to=str(tmp_path / "several"), processes=2, progress=lambda done, total: seen.append((done, total))
    )
    export(out, "csv", to=str(tmp_path / "one"), processes=1)
    assert seen[-1] == (12, 12)
    for path in _files(tmp_path / "one"):
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "several" / path).read_bytes()


@pytest.mark.s3
def test_from_s3_to_s3(s3: Any, tmp_path: Path) -> None:
    from uadray.storage import objects

    local = Path(made_screening(tmp_path / "out", 3))
    for path in local.rglob("*"):
        if path.is_file() and "segments" not in path.parts:
            objects.write_bytes(f"s3://slides/exported/{path.relative_to(local)}", path.read_bytes())
    to = "s3://slides/exported-to"
    assert _counts(export("s3://slides/exported", "geojson", to=to)) == (3, 0, 0)
    assert _counts(export("s3://slides/exported", "geojson", to=to)) == (0, 3, 0)
    export(str(local), "geojson", to=str(tmp_path / "to"))
    name = "geojson/s0.geojson"
    assert objects.read_bytes(f"{to}/{name}") == (tmp_path / "to" / name).read_bytes()
    objects.delete(f"{to}/{name}")
    assert _counts(export("s3://slides/exported", "geojson", to=to)) == (1, 2, 0)
