"""The rules of the house: who may import whom, what an import may do, that help is quick, and that the tree is true."""

import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOT, circles, graph, imported_names, modules, rooms

PACKAGE = ROOT / "uadray"
MODULES = modules()
EDGES = graph()

RAY = (
    "cluster", "training.worker", "training.worker_group", "training.tune", "serving", "metrics", "monitoring", "bench",
)  # fmt: skip
"""Where Ray is imported, and nowhere else."""


def _tree() -> dict[str, list[str]]:
    """The README's tree of uadray/: folder -> its modules, in its order. What lies in no folder goes by ''."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("## The tree", 1)[1].split("    uadray/\n", 1)[1].split("\n    configs/", 1)[0]
    tree: dict[str, list[str]] = {"": []}
    folder = ""
    for line in block.splitlines():
        head = re.match(r"      (\w+)/ ", line)
        folder = head[1] if head else folder
        tree.setdefault(folder, []).extend([] if head else re.findall(r"([\w/]+)\.py\b", line))
    return tree


TREE = _tree()
ORDER = [*(name for name in TREE[""] if name != "cli"), *(name for name in TREE if name), "cli"]
"""Folders and single modules from the top: who stands later may import who stands before."""


def _within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


def _may_import_ray(module: str) -> bool:
    return any(_within(module, allowed) for allowed in RAY)


def test_the_readmes_tree_is_the_folder() -> None:
    found: dict[str, set[str]] = {"": set()}
    for name in MODULES:
        folder, _, rest = name.partition(".")
        found.setdefault(folder if rest else "", set()).add(rest.replace(".", "/") or folder)
    assert {folder: set(names) for folder, names in TREE.items()} == found
    assert all(len(names) == len(set(names)) for names in TREE.values())


def test_imports_point_up_the_tree() -> None:
    offenders = [
        f"{room} imports {other}"
        for room, others in rooms(EDGES).items()
        for other in sorted(others)
        if ORDER.index(other) > ORDER.index(room)
    ]
    assert offenders == []


def test_no_two_files_import_each_other() -> None:
    assert circles(EDGES) == []


def test_package_files_import_nothing() -> None:
    assert [path for path in PACKAGE.rglob("__init__.py") if imported_names(path)] == []


def test_ray_stays_at_the_edges() -> None:
    offenders = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in imported_names(path)
        if _within(name, "ray") and not _may_import_ray(module)
    ]
    assert offenders == []


def test_what_computes_runs_without_ray() -> None:
    """Not even by way of another module: all that stands above `cluster`, and what later folders compute."""
    above = set(ORDER[: ORDER.index("cluster")]) - set(RAY)
    plain = [name for name in MODULES if name.partition(".")[0] in above | {"decisions", "reports", "evaluation"}]
    code = "import sys, importlib\n" + "".join(
        f"importlib.import_module('uadray.{name}')\n" for name in [*plain, "training.plain"]
    )
    done = _python("-c", code + "print(sorted(m for m in sys.modules if m == 'ray' or m.startswith('ray.'))[:3])")
    assert len(plain) > 50
    assert done.stdout.strip() == "[]"


def test_tests_mirror_the_package() -> None:
    """Each folder of tests is one of uadray's, or `faults`, which holds what crosses folders."""
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("*/test_*.py")}
    assert folders - {"faults"} <= {name for name in TREE if name}
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "misc", "util"])
def test_no_drawer_for_everything(name: str) -> None:
    assert [str(path) for path in PACKAGE.rglob(f"{name}*")] == []


def test_every_dependency_is_used() -> None:
    """By an import, as the package that pinned weights come from, or as the engine of another one."""
    engines = ("openslide-bin", "setuptools")  # OpenSlide's library; pip's, for the archive that VGG16 comes in
    modules_of = {
        "scikit-learn": "sklearn", "opencv-python-headless": "cv2", "pillow": "PIL", "openslide-python": "openslide",
    }  # fmt: skip
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text.split("dependencies = [", 1)[1].split("\n]", 1)[0]
    wanted = re.findall(r'^    "([\w.-]+)', block, re.M)
    used = {name.partition(".")[0] for path in MODULES.values() for name in imported_names(path)}
    registries = (path.read_text(encoding="utf-8") for name, path in MODULES.items() if name.startswith("networks.w"))
    used |= {name.replace("-", "_") for text in registries for name in re.findall(r'where="([\w-]+)"', text)}
    unused = [w for w in wanted if w not in engines and modules_of.get(w, w.replace("-", "_")) not in used]
    assert unused == []


def test_what_texts_refer_to_is_there() -> None:
    """Every `uadray.module.name` in a docstring, a comment, the README or CONTRIBUTING."""
    texts = [*MODULES.values(), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    names = {n for path in texts for n in re.findall(r"`(uadray(?:\.\w+)+)", path.read_text(encoding="utf-8"))}
    assert len(names) > 20
    assert [name for name in sorted(names) if not _exists(name)] == []


def _exists(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_no_module_is_a_pickle_reader() -> None:
    """Nothing that is opened may run code."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
    suspects = [name for name, text in texts.items() if re.search(r"\b(import pickle|pickle\.load|yaml\.load\()", text)]
    assert [name for name in suspects if not name.startswith("networks.weight")] == []  # reads others', unpickling none
    assert [name for name, text in texts.items() if re.search(r"torch\.load\((?!.*weights_only=True)", text)] == []


SIDE_EFFECTS = """
import contextlib, importlib, json, logging, os, pathlib, signal, sys, threading, warnings

import cv2, numpy, ray, torch

for name in json.loads(sys.argv[2]):  # what others do on import is not ours to judge
    with contextlib.suppress(ImportError):
        importlib.import_module(name)

def look():
    children = [pathlib.Path(f"/proc/self/task/{t}/children").read_text() for t in os.listdir("/proc/self/task")]
    return {
        "threads": sorted(t.name for t in threading.enumerate()),
        "children": "".join(children).split(),
        "torch threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "torch default": [str(torch.get_default_dtype()), torch.is_grad_enabled()],
        "torch random": torch.get_rng_state().sum().item(),
        "numpy random": numpy.random.get_state()[1].sum().item(),
        "opencv threads": cv2.getNumThreads(),
        "environment": dict(os.environ),
        "handlers": [str(h) for h in logging.getLogger().handlers + logging.getLogger("uadray").handlers],
        "filters": len(warnings.filters),
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "folder": os.getcwd(),
        "files": sorted(str(p) for p in pathlib.Path.home().rglob("*")),
        "path": sys.path,
        "ray": ray.is_initialized(),
    }

for name in json.loads(sys.argv[1]):
    before = look()
    importlib.import_module(name)
    after = look()
    for what in before:
        if before[what] != after[what]:
            print(f"{name} changes {what}")
"""


def test_importing_has_no_side_effect(tmp_path: Path) -> None:
    """No file, thread, child process, environment variable, handler or random state changes; nothing is printed."""
    names = json.dumps([f"uadray.{name}" for name in MODULES])
    others = sorted({n for path in MODULES.values() for n in imported_names(path) if not _within(n, "uadray")})
    done = _python("-c", SIDE_EFFECTS, names, json.dumps(others), cwd=tmp_path, HOME=str(tmp_path))
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if "uadray" in line] == []


def test_help_imports_nothing_heavy() -> None:
    """Half a second, not ten: `--help` of the program and of each command."""
    script = Path(sys.executable).with_name("uadray")
    heavy = {"torch", "ray", "cv2", "sklearn", "pyarrow", "openslide", "boto3", "numpy", "lpips", "torchvision"}
    for arguments in (["--help"], ["screen", "--help"], ["weights", "--help"], ["--version"]):
        done = _python("-X", "importtime", str(script), *arguments)
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
        assert "uadray.cli" in imported
        assert imported & heavy == set(), arguments
        assert done.stdout.strip()


def _python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done
