"""What goes wrong on the nodes of `bench faults`: a copy of this file is the `sitecustomize.py` of their interpreters.

No other module of uadray imports it or knows of it. The variable `UADRAY_BENCH_FAULT` names the fault:

    reader:<slide_id>   a process that opens this slide is killed (signal 9)
    missing             uadray cannot be imported
    slow:<seconds>      each slide takes so much longer to open, as from a slow store; no CPU
    device:<n>          a broken device: the first process whose detector has answered n times fails at each further
                        call, and so does each other process on the same node once its detector has answered n times

Each time the fault strikes, a line with the node's address (`UADRAY_BENCH_ADDRESS`) goes to the file
`UADRAY_BENCH_STRUCK`. Only the standard library is imported, since this runs before anything else does.
"""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FAULT, ADDRESS, STRUCK = "UADRAY_BENCH_FAULT", "UADRAY_BENCH_ADDRESS", "UADRAY_BENCH_STRUCK"


class Missing(MetaPathFinder):
    """Makes uadray impossible to import."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Raise for what belongs to uadray; leave all other modules to other finders."""
        if name.split(".")[0] == "uadray":
            _strike()
            raise ModuleNotFoundError("No module named 'uadray'", name=name)


class Changed(MetaPathFinder):
    """Changes a module once it is loaded."""

    def __init__(self, module: str, change: Callable[[Any], None]) -> None:
        self._module, self._change = module, change

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find this one module as other finders do, and change it once it is loaded."""
        if name != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_changed(module: ModuleType) -> None:
                load(module)
                self._change(module)

            spec.loader.exec_module = load_changed  # type: ignore[method-assign]
        return spec


def sabotage(fault: str) -> None:
    """Prepare this process for a fault, see the module."""
    kind, _, which = fault.partition(":")
    match kind:
        case "missing":
            sys.meta_path.insert(0, Missing())
        case "reader":
            sys.meta_path.insert(0, Changed("uadray.slides.opening", lambda module: _kill_reader(module, which)))
        case "device":
            sys.meta_path.insert(
                0, Changed("uadray.detectors.detector", lambda module: _break_device(module, int(which)))
            )
        case "slow":
            sys.meta_path.insert(0, Changed("uadray.slides.opening", lambda module: _slow_down(module, float(which))))
        case _:
            raise ValueError(f"{FAULT}={fault}: expected reader:<slide_id>, missing, slow:<seconds> or device:<n>")


def _kill_reader(module: Any, slide_id: str) -> None:
    opened = module.open_slide

    def open_slide(uri: Any, **options: Any) -> Any:
        if options.get("slide_id") == slide_id:
            _strike()
            os.kill(os.getpid(), signal.SIGKILL)
        return opened(uri, **options)

    module.open_slide = open_slide


def _slow_down(module: Any, seconds: float) -> None:
    opened = module.open_slide

    def open_slide(uri: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return opened(uri, **options)

    module.open_slide = open_slide


def _break_device(module: Any, good_calls: int) -> None:
    detect, calls = module.Detector.__call__, [0]

    def broken(detector: Any, pixels: Any) -> Any:
        calls[0] += 1
        if calls[0] > good_calls and _is_here():
            _strike()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return detect(detector, pixels)

    module.Detector.__call__ = broken


def _is_here() -> bool:
    """True on the node with the broken device, which is the first node that asks."""
    broken_node = Path(f"{os.environ[STRUCK]}.where")
    with suppress(FileExistsError):
        broken_node.symlink_to(os.environ[ADDRESS])  # a link is made at once: no reader sees half of it
    return str(broken_node.readlink()) == os.environ[ADDRESS]


def _strike() -> None:
    with Path(os.environ[STRUCK]).open("a") as file:
        file.write(f"{os.environ[ADDRESS]}\n")


if __name__ == "sitecustomize" and FAULT in os.environ:
    sabotage(os.environ[FAULT])
