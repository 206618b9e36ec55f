"""`uadray client` as a process: what it prints, and its exit status."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import answer, run
from faulty_endpoint import Endpoint, failed, problem, running


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def env(endpoint: Endpoint) -> Iterator[dict[str, str]]:
    with running(endpoint) as port:
        yield {"UADRAY_URL": f"http://127.0.0.1:{port}", "UADRAY_TOKEN": "correct-horse"}


def test_a_slide_is_sent_waited_for_and_asked_about(endpoint: Endpoint, env: dict[str, str], tmp_path: Path) -> None:
    done = run("client", "submit", "s3://b/a.svs", "--slide-id", "a", "--mpp", "0.5", "--bundle", "x", env=env)
    assert done.returncode == 0, done.stderr
    job = answer(done)
    assert (job["state"], job["asked"]) == (
        "waiting", {"uri": "s3://b/a.svs", "slide_id": "a", "mpp": 0.5, "bundles": ["x"]},
    )  # fmt: skip
    done = run("client", "wait", job["id"], env=env)
    assert (done.returncode, answer(done)["state"]) == (0, "done")
    lines = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert lines == ["tiles: starting", "tiles: 2 of 2 done"]
    assert "correct-horse" not in done.stderr
    done = run("client", "decision", job["id"], "--tiles", str(tmp_path / "t.parquet"), env=env)
    assert (done.returncode, answer(done)["decision"]) == (0, "anomalous")
    assert pq.read_table(tmp_path / "t.parquet")["score"].to_pylist() == [0.5]
    done = run("client", "decision", job["id"], "--tiles", str(tmp_path / "no" / "t.parquet"), env=env)
    assert (done.returncode, "t.parquet: cannot be written: No such file" in done.stderr) == (2, True)
    done = run("client", "list", env=env)
    assert done.stdout.splitlines()[0] == f"{job['id']}  done       anomalous"
    assert [each["id"] for each in answer(done)["slides"]] == [job["id"]]
    assert {headers["authorization"] for _, _, headers in endpoint.seen} == {"Bearer correct-horse"}


def test_a_path_that_is_there_is_sent_whole(env: dict[str, str]) -> None:
    here = Path(__file__)
    done = run("client", "submit", os.path.relpath(here), env=env)
    assert answer(done)["asked"]["uri"] == str(Path(os.path.relpath(here)).absolute())
    assert answer(run("client", "submit", "not/here.svs", env=env))["asked"]["uri"] == "not/here.svs"


def test_a_slide_that_fails_is_exit_status_1(endpoint: Endpoint, env: dict[str, str]) -> None:
    endpoint.decisions = [failed()]
    done = run("client", "submit", "a.svs", "--wait", env=env)
    assert (done.returncode, answer(done)["decisions"][0]["reason"]) == (1, "no_mpp")
    job = answer(done)["id"]
    assert run("client", "status", job, env=env).returncode == 0  # it says how far it is, no more
    assert run("client", "decision", job, env=env).returncode == 1


def test_a_slide_is_cancelled(env: dict[str, str]) -> None:
    job = answer(run("client", "submit", "a.svs", env=env))["id"]
    done = run("client", "cancel", job, env=env)
    assert (done.returncode, answer(done)["state"]) == (0, "cancelled")
    assert run("client", "wait", job, env=env).returncode == 1


def test_a_batch_with_a_failed_slide_is_exit_status_1(env: dict[str, str]) -> None:
    done = run("client", "submit", "a.svs", "b.svs", "--wait", "--priority", "0", env=env)
    assert (done.returncode, answer(done)["counts"]["failed"]) == (1, 1)
    assert json.loads(done.stderr.splitlines()[-1])["message"] == "slides: 2 of 2 1 anomalous, 1 failed"


def test_tiles(env: dict[str, str], tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", tiles=np.arange(2, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 3), np.uint8))
    done = run("client", "score", str(tmp_path / "t.npz"), "--maps", str(tmp_path / "maps.npz"), env=env)
    assert done.returncode == 1  # one tile has no score
    assert answer(done)["scores"] == [
        {"id": "0", "score": None, "error": "black"}, {"id": "1", "score": 1.0, "error": None},
    ]  # fmt: skip
    with np.load(tmp_path / "maps.npz") as arrays:
        assert (arrays["ids"].tolist(), arrays["maps"].shape) == (["0", "1"], (2, 1, 2))
    (tmp_path / "a.png").write_bytes(b"123")
    done = run("client", "score", str(tmp_path / "a.png"), env=env)
    assert (done.returncode, answer(done)["scores"][0]["score"]) == (0, 4.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wait", "0" * 19], "404: no such job"),
        (["status", "../x"], "is not the id of a job"),
        (["submit", "a.svs", "b.svs", "--mpp", "0.5"], "mpp: of one slide, not of many"),
        (["submit"], "a batch is a manifest, a prefix or slides"),
        (["submit", "a.svs", "--manifest", "m.csv"], "a batch is a manifest, a prefix or slides"),
        (["score", "none.npz"], "none.npz: no .npz with an array"),
        (["score", "BROKEN"], "broken.npz: no .npz with an array"),
        (["submit", "a.svs", "--mpp", "nan"], "a field cannot be sent"),
        (["list", "--url", "10.0.0.1"], "expected a URL"),
        (["list", "--token-file", "none"], "token file none"),
    ],
)
def test_wrong_input_is_one_line_and_exit_status_2(
    env: dict[str, str], arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    done = run("client", *(str(tmp_path / "broken.npz") if each == "BROKEN" else each for each in arguments), env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_refusal_is_one_line(endpoint: Endpoint, env: dict[str, str]) -> None:
    endpoint.faults = [lambda _: problem(422, "uri: s3://other/ is not among the prefixes that this endpoint reads")]
    done = run("client", "submit", "s3://other/a.svs", env=env)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith(f"uadray: {env['UADRAY_URL']}/v1/slides: 422: uri: s3://other/ is not among")


def test_help_is_quick() -> None:
    """As that of other commands: nothing heavy is imported, not even what sends requests."""
    code = "import sys; from uadray.cli import main; sys.argv = ['uadray', 'client', 'submit', '--help']; main()"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert "uadray.commands.client" in imported
    assert imported & {"httpx", "numpy", "pyarrow", "torch", "ray"} == set()
