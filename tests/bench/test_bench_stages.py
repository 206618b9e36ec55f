"""`bench stages`: that each stage is there, needs no Ray, and that the slowest bounds the chain."""

import subprocess
import sys

import pytest
import torch

from uadray.bench import stages
from uadray.errors import InputError


def test_the_limit_is_that_of_what_shares_the_processor() -> None:
    rates = dict.fromkeys(("decode", "host", "send", "map", "reconstruct", "score"), 60.0) | {"score": 20.0}
    alone = stages._report(rates, {"chain": 5.0}, "cpu")
    assert (alone["limit_tiles_per_s"], alone["bound"]) == (7.5, "score")  # 5 / 60 + 1 / 20
    beside = stages._report(rates, {"chain": 5.0}, "cuda")
    assert beside["limit_tiles_per_s"] == 10.0  # the device's, 3 / 60 + 1 / 20; the host makes 30
    assert (beside["chain_over_limit"], beside["goals_met"]) == (0.5, False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"no device 'cuda' here; there are: cpu"):
        stages.run(device="cuda")


def test_it_imports_no_ray() -> None:
    code = "import sys, uadray.bench.stages; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
