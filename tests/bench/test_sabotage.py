"""What the nodes of `bench faults` suffer."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from uadray.bench import sabotage


@pytest.fixture
def struck(tmp_path: Path) -> Path:
    """A folder with the nodes' `sitecustomize.py`; the file that tells where it struck."""
    shutil.copy(sabotage.__file__, tmp_path / "sitecustomize.py")
    return tmp_path / "struck"


def _sabotaged(struck: Path, fault: str, code: str, *, address: str = "10.0.0.1") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(struck.parent), str(Path(__file__).parents[2])])
    environment = os.environ | {
        "PYTHONPATH": path, sabotage.FAULT: fault, sabotage.ADDRESS: address, sabotage.STRUCK: str(struck)
    }  # fmt: skip
    return subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=False)


def test_a_node_without_uadray(struck: Path) -> None:
    done = _sabotaged(struck, "missing", "import uadray.errors")
    assert "No module named 'uadray'" in done.stderr
    assert struck.read_text() == "10.0.0.1\n"


@pytest.mark.parametrize(("slide_id", "status"), [("s0005", -9), ("s0004", 1)])
def test_a_slide_kills_its_reader(struck: Path, slide_id: str, status: int) -> None:
    code = f"from uadray.slides.opening import open_slide; open_slide('/no/such.tif', slide_id='{slide_id}')"
    done = _sabotaged(struck, "reader:s0005", code)
    assert done.returncode == status
    assert struck.exists() is (status == -9)
    assert ("no such file" in done.stderr) is (status == 1)


def test_slides_open_slowly(struck: Path) -> None:
    code = "from uadray.slides.opening import open_slide; open_slide('/no/such.tif', slide_id='a')"
    began = time.monotonic()
    assert "no such file" in _sabotaged(struck, "slow:3", code).stderr
    assert time.monotonic() - began >= 3


def test_the_device_of_one_node_breaks(struck: Path) -> None:
    code = (
        "from uadray.detectors.detector import Detector; import numpy as np; import torch\n"
        "score = lambda x, x_hat, *_: (x.mean((1, 2, 3)), x[:, 0])\n"
        "ready = Detector(lambda x: x, lambda z: z, score, input_px=8, device=torch.device('cpu'))\n"
        "tile = np.zeros((1, 8, 8, 3), np.uint8)\n"
        "for i in range(3): print(i, len(ready(tile).score), flush=True)"
    )
    first, other = (_sabotaged(struck, "device:2", code, address=address) for address in ("10.0.0.1", "10.0.0.2"))
    assert first.stdout.split() == ["0", "1", "1", "1"]
    assert "CUDA error" in first.stderr
    assert other.returncode == 0, other.stderr
    assert struck.read_text() == "10.0.0.1\n"
