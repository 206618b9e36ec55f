"""What can be followed; and the command, until it is stopped."""

import json
import signal
import time
from pathlib import Path

import pytest
from command_line import start
from seaweed import SeaweedServer

from uadray.bench.slides import write_tiny_bundle
from uadray.commands.screen import refuse_with_follow
from uadray.errors import InputError
from uadray.screening.follow import check_can_be_followed
from uadray.storage import objects


def test_what_is_no_folder_of_slides_is_refused(tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "list").write_text("slide_id,uri")
    check_can_be_followed(str(slides), str(tmp_path / "slides-out"))
    for uri in (str(slides / "list"), "m.csv", "s3://bucket/slides.Parquet"):
        with pytest.raises(InputError, match="--follow takes the folder in which slides arrive"):
            check_can_be_followed(uri, "out")
    with pytest.raises(InputError, match="there is no such folder to follow"):
        check_can_be_followed(str(tmp_path / "none"), "out")
    for out in (str(slides), str(slides / "out"), f"{slides}/../slides/out"):
        with pytest.raises(InputError, match="each look for slides would list the results"):
            check_can_be_followed(str(slides), out)


@pytest.mark.s3
def test_what_is_no_prefix_of_slides_is_refused(s3: SeaweedServer, tmp_path: Path) -> None:
    root = f"s3://{s3.bucket}/{tmp_path.name}"
    objects.write_bytes(f"{root}/a.svs", b"x")
    for uri in (root, f"{root}/", f"s3://{s3.bucket}", f"{root}/empty"):
        check_can_be_followed(uri, "s3://other/out")
    with pytest.raises(InputError, match="--follow takes the folder"):
        check_can_be_followed(f"{root}/a.svs", "out")
    with pytest.raises(InputError, match="lies in s3://"):
        check_can_be_followed(f"s3://{s3.bucket}", f"{root}/out")


def test_options_without_a_meaning_for_what_is_to_come_are_refused() -> None:
    refuse_with_follow({"--split": None, "--mask-dir": None, "--dry-run": False})
    for name, value in (("--split", "test"), ("--mask-dir", "masks"), ("--dry-run", True)):
        with pytest.raises(InputError, match=f"^{name} cannot be used with --follow: "):
            refuse_with_follow({"--split": None, name: value})


def test_the_command_waits_until_it_is_stopped(tmp_path: Path) -> None:
    """Its last line is the summary, and nothing has failed. Ray is not needed where nothing comes."""
    write_tiny_bundle(str(tmp_path / "bundle"))
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "note.txt").touch()
    out = tmp_path / "out"
    arguments = ["screen", str(tmp_path / "bundle"), "--slides", str(tmp_path / "slides"), "--out", str(out)]
    with start(*arguments, "--follow", "--renew-minutes", "0.01") as process:
        deadline = time.monotonic() + 60
        while not (out / "summary.json").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        printed, lines = process.communicate(timeout=30)
    assert process.returncode == 0, lines
    summary = json.loads(printed.splitlines()[-1])
    assert (summary["slides"], summary["slides_now"]) == (0, 0)
    end = json.loads((out / "progress.json").read_text())
    assert (end["why"], end["open"], end["oldest_open"]) == ("stopped", 0, None)
    assert [json.loads(line)["message"][:8] for line in lines.splitlines()] == ["worklist", "stopping"]
