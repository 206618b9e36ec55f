"""Steps in bfloat16 where it is asked for and the device is fast at it; a GPU's settings are put back."""

import pytest
import torch

from uadray.config import parse_config
from uadray.training import arithmetic
from uadray.training.arithmetic import lowered, quick
from uadray.training.config import TrainConfig

CPU = torch.device("cpu")
RUN = {
    "name": "a", "tiles": {"mpp": 1.0, "tile_px": 32},
    "detector": {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8},
}  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "fast", "expected"),
    [(True, True, torch.bfloat16), (True, False, torch.float32), (False, True, torch.float32)],
)
def test_a_step_multiplies_in_bfloat16_where_asked_and_fast(
    asked: bool, fast: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "is_fast", lambda device: fast)
    config = parse_config(TrainConfig, RUN | {"bf16": asked}, source="test")
    with lowered(config, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_gpus_settings_are_put_back_after_a_training() -> None:
    def settings() -> tuple[bool, bool, bool]:
        cudnn = torch.backends.cudnn
        return cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, cudnn.benchmark

    before = settings()
    with quick(CPU):
        assert settings() == before
    with quick(torch.device("cuda")):
        assert settings() == (True, True, True)
    assert settings() == before
