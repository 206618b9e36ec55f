"""What reaches the terminal, and what the log file, of a real process on a real terminal and on a pipe."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORK = """
import logging, os, subprocess, sys, time
from uadray.commands import console, progress
console.set_up_logging()
progress.LOG_EVERY_S = 0.3
with progress.progress("work") as tick:
    print("noise 1"); print("noise 2", file=sys.stderr); os.write(2, b"noise 3\\n")
    subprocess.run(["echo", "noise 4"])
    logging.getLogger("uadray.x").warning("a node is bad")
    tick(1, 2, "one")
    time.sleep(2.3)
    tick(2, 2, "two")
console.say("for people")
console.result({"answer": 42})
"""


def _environment(cache: Path) -> dict[str, str]:
    return dict(os.environ) | {"UADRAY_CACHE": str(cache), "COLUMNS": "100", "TERM": "xterm"}


def _log(cache: Path) -> str:
    (path,) = (cache / "logs").iterdir()
    assert path.stat().st_mode & 0o077 == 0, "what libraries print may name slides"
    return path.read_text()


def test_off_a_terminal_lines_come_regularly_and_the_answer_is_last(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORK], env=_environment(tmp_path), capture_output=True, text=True, check=True, timeout=60
    )
    lines = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert lines[:2] == ["work: starting", "a node is bad"]
    assert [line for line in lines if line.startswith("work: 1 of 2 one")][1:], "again while nothing moves"
    assert lines[-1] == "work: 2 of 2 two"
    assert done.stdout.splitlines() == ["for people", '{"answer": 42}']
    assert [f"noise {i}" in _log(tmp_path) for i in (1, 2, 3, 4)] == [True] * 4


def test_on_a_terminal_there_is_a_bar_and_no_noise(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WORK], env=_environment(tmp_path), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the last one who had it open has gone
            break
    os.close(ours)
    assert process.wait(10) == 0
    text = shown.decode()
    assert "noise" not in text
    assert "work" in text
    assert "2/2" in text
    assert "WARNING: a node is bad" in text
    assert text.strip().splitlines()[-1].strip() == '{"answer": 42}'
    assert "noise 4" in _log(tmp_path)


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", WORK], env=_environment(tmp_path / "file"), capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == {"answer": 42}


@pytest.mark.parametrize(("error", "status"), [("InputError", 2), ("WorkError", 1), ("ClusterLostError", 1)])
def test_an_error_is_one_line_with_its_log(tmp_path: Path, error: str, status: int) -> None:
    code = (
        "import sys; from uadray import cli, errors; from uadray.commands.progress import progress\n"
        "def fail(*_, **__):\n with progress('x'): "
        f"raise errors.{error}('what\\nhappened') from OSError('why')\n"
        "cli.app = fail; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == status
    last = done.stderr.splitlines()[-1]
    assert last.startswith("uadray: what happened (log: ")
    assert "Traceback" not in done.stderr
    assert "OSError: why" in Path(last.rpartition("log: ")[2].rstrip(")")).read_text()
