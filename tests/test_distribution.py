"""The wheel, installed where the sources are not: it has what is no code, and its program runs."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import uadray

ROOT = Path(__file__).parents[1]

TOLD = ("html", "css", "js", "json", "safetensors", "svg", "typed")
"""Kinds of files in the package that are no modules."""


def _run(arguments: list[str | Path], cwd: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
    done = subprocess.run(
        arguments, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is made of it; `make dist` makes them in environments of their own."""
    folder = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], folder)
    return folder


@pytest.fixture(scope="module")
def program(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`uadray` of a new environment that has the wheel; what it needs is found where this environment has it."""
    folder = tmp_path_factory.mktemp("environment")
    _run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python"]
    _run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # a path, and not a folder of packages: this environment's link to the sources is not followed
    (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "bin" / "uadray"


def test_the_wheel_has_every_file_of_the_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = _run(["git", "ls-files", "uadray"], ROOT).split()
    assert [name for name in tracked if name not in names] == []
    assert set(TOLD) <= {name.rpartition(".")[2] for name in names}
    assert any(name.endswith("openseadragon.LICENSE.txt") for name in names)
    assert not any(name.startswith(("tests/", "deploy/")) for name in names)


def test_the_sdist_has_them_too(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    tracked = _run(["git", "ls-files", "uadray"], ROOT).split()
    assert [name for name in [*tracked, "pyproject.toml", "README.md", "LICENSE"] if name not in names] == []


def test_the_program_runs_where_the_sources_are_not(program: Path, tmp_path: Path) -> None:
    where = _run([program.with_name("python"), "-c", "import uadray; print(uadray.__file__)"], tmp_path)
    assert where.startswith(str(program.parents[1]))
    assert _run([program, "--version"], tmp_path).split()[-1] == uadray.__version__
    assert "--out" in _run([program, "demo", "--help"], tmp_path)


def test_what_is_no_code_is_read(program: Path, tmp_path: Path) -> None:
    """A ready detector, its figures, and the template of the page that says what it is."""
    _run([program, "bundles", "pull", "lymph-node-10x", "--out", "bundle"], tmp_path)
    _run([program, "card", "bundle", "--out", "card.html"], tmp_path)
    assert "<html" in (tmp_path / "card.html").read_text(encoding="utf-8")
