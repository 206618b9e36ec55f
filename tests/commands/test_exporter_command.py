"""`uadray exporter` and `uadray watch` as people start them."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import command_line
import httpx
import made_up_ledger as made
import pytest

from uadray.commands.exporter import named
from uadray.errors import InputError


@pytest.fixture
def out(tmp_path: Path) -> str:
    made.write_run(str(tmp_path / "archive"))
    made.write_decisions(str(tmp_path / "archive"), [made.scored("s1"), made.unscored("s2", "failed", "no_mpp")])
    return str(tmp_path / "archive")


def test_screenings_have_names() -> None:
    assert named(["/data/a", "b=s3://bucket/x/a", "./c=d/e"], {}) == {
        "a": "/data/a", "b": "s3://bucket/x/a", "e": "./c=d/e",
    }  # fmt: skip
    with pytest.raises(InputError, match="both called a; give one a name: NAME=/other/a"):
        named(["/data/a", "/other/a"], {})
    with pytest.raises(InputError, match="no screening is named"):
        named([], {})


def test_the_exporter_answers_on_this_machine_alone_until_it_is_stopped(out: str, tmp_path: Path) -> None:
    config = tmp_path / "exporter.yaml"
    config.write_text(f"refresh_s: 1\nscreenings: {{second: {out}}}\nprices: {{cpu_hour: 0.1}}\n")
    with _started("exporter", out, "--config", str(config), "--port", "0") as process:
        said = _line(process)
        assert said.startswith("http://127.0.0.1:")
        assert said.endswith("/metrics tells of archive, second")
        deadline, text = time.monotonic() + 30, ""
        while text.count("uadray_ledger_decided_total{") < 2:
            assert time.monotonic() < deadline, text
            text = httpx.get(said.split()[0], timeout=10).text
            time.sleep(0.1)
        assert 'uadray_ledger_decided_total{screening="second"} 2.0' in text
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_wrong_configuration_ends_in_one_line(out: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("refresh: 3")
    done = command_line.run("exporter", out, "--config", str(tmp_path / "c.yaml"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "refresh_s" in done.stderr


def test_watch_once_prints_a_line_of_json_where_there_is_no_terminal(out: str, tmp_path: Path) -> None:
    done = command_line.run("watch", out, "--once")
    assert done.returncode == 0
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["screening"], line["decided"]) == ("archive", 2)
    gone = command_line.run("watch", str(tmp_path / "nowhere"), "--once")
    assert gone.returncode == 1
    assert "there is no screening" in gone.stderr.splitlines()[-1]


def test_watch_goes_on_until_it_is_interrupted(out: str) -> None:
    with _started("watch", out, "--every", "1") as process:
        lines = [json.loads(_line(process)) for _ in range(2)]
        assert [line["decided"] for line in lines] == [2, 2]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


@contextmanager
def _started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with command_line.start(*arguments) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()
