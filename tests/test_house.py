"""The rules of the house: who may import whom, what an import may do, and that help is quick."""

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "uadray"

EVERYWHERE = ("errors", "units", "schemas", "config", "runs")
"""May be imported from anywhere; import nothing but what stands before them here."""

STAGES = (
    "uris",
    "s3",
    "s3_objects",
    "arrow_files",
    "storage",
    "faults",
    "members",
    "copies",
    "cache",
    "manifest_columns",
    "manifest_csv",
    "manifest",
    "identity",
    "leases",
    "drivers",
    "slides",
    "tissue",
    "artefacts",
    "focus",
    "quality",
    "stain",
    "tiling",
    "mask_classes",
    "mask_folder",
    "masks",
    "evidence",
    "images",
    "monitoring.metrics",  # a leaf: names and counters, for every stage that counts
    "data.passes",
    "data.shards",
    "data.tilesets",
    "data.reading",
    "data.datasource",
    "data.probe",
    "data.joining",
    "data.cluster",
    "models",
    "checks",
    "data.preflight",
    "data.nodes",
    "data.attempts",
    "data.tasks",
    "data.journal",
    "data.crops",
    "data.pipeline",
    "data.materialise",
    "data.estimate",
    "data.watch",
    "data.stream",
    "data.waiting",
    "data.claims",
    "data.splits",
    "training",
    "mapping",
    "scoring",
    "detector",
    "bundle",
    "aggregation",
    "worklist",
    "decisions",
    "versions",
    "ledger",
    "screening",
    "calibration",
    "score",
    "train",
    "console",  # what a command shows, `uadray serve` among them
    "serving",
    "monitoring",
    "evaluation",
    "demo",
    "bench",
    "doctor",
    "cli",
)
"""DESIGN, section 1, as the code has it: imports point upwards in this list only. A package stands for all its modules
but those that stand here by themselves."""

EXCEPTIONS = {("ledger", "screening")}
"""(importer, imported): `ledger` names the type `SlideResult` in its annotations, under TYPE_CHECKING."""

RAY_ALLOWED = ("data", "training.loop", "training.tune", "screening", "serving", "monitoring", "bench")


def _modules() -> dict[str, Path]:
    """Every module by its name without `uadray.`; `__init__` files go by their package."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del names[""]
    return names


MODULES = _modules()
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


@cache
def _imports(path: Path) -> frozenset[str]:
    """Full names of all that is imported, inside functions too; of `from a import b` both `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def _within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


def _place(module: str) -> int:
    """Where a module stands in the order; by its longest name that is in the list."""
    order = (*EVERYWHERE, *STAGES)
    fitting = [name for name in order if _within(module, name)]
    return order.index(max(fitting, key=len)) if fitting else -1


def _inner_imports(path: Path) -> set[str]:
    names = {name.removeprefix("uadray.") for name in _imports(path) if name.startswith("uadray.")}
    return (names & MODULES.keys()) - PACKAGES  # a package's own file is empty, see below


def test_every_module_has_a_place_in_the_order() -> None:
    homeless = [name for name in MODULES if _place(name) < 0 and name not in PACKAGES]
    assert homeless == [], "put them into STAGES, where the data flow has them"


def test_imports_point_upstream_only() -> None:
    offenders = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in sorted(_inner_imports(path))
        if _place(imported) > _place(module) and (module, imported) not in EXCEPTIONS
    ]
    assert offenders == []


def test_exceptions_are_still_needed() -> None:
    assert {(a, b) for a, b in EXCEPTIONS if b in _inner_imports(MODULES[a])} == EXCEPTIONS


def test_package_files_import_nothing() -> None:
    inits = [path for path in PACKAGE.rglob("__init__.py") if _imports(path)]
    assert inits == []


def test_ray_stays_at_the_edges() -> None:
    offenders = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in _imports(path)
        if _within(name, "ray") and not any(_within(module, allowed) for allowed in RAY_ALLOWED)
    ]
    assert offenders == []


def test_what_computes_runs_without_ray() -> None:
    """Not even by way of another module."""
    plain = (
        *("slides.reader", "slides.synthetic", "tissue", "tiling", "data.reading", "data.tilesets", "models.build"),
        *("training.steps", "training.checkpoint", "detector", "bundle", "aggregation", "evidence", "worklist"),
        *("ledger", "data.splits", "evaluation.report", "manifest", "cache"),
    )
    code = "import sys, importlib\n" + "".join(f"importlib.import_module('uadray.{name}')\n" for name in plain)
    done = _python("-c", code + "print(sorted(m for m in sys.modules if m == 'ray' or m.startswith('ray.'))[:3])")
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "misc", "util"])
def test_no_drawer_for_everything(name: str) -> None:
    assert [str(path) for path in PACKAGE.rglob(f"{name}*")] == []


def test_no_module_is_a_pickle_reader() -> None:
    """Nothing that is opened may run code."""
    texts = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
    suspects = [name for name, text in texts.items() if re.search(r"\b(import pickle|pickle\.load|yaml\.load\()", text)]
    assert [
        name for name in suspects if name != "models.weight_sources"
    ] == []  # reads others' pickles, unpickling none
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
    others = sorted({n for path in MODULES.values() for n in _imports(path) if not _within(n, "uadray")})
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
