"""With how many bits a training multiplies. Scores stay exact, see `uadray.detectors.detector.assemble`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from uadray.detectors.precision import is_fast
from uadray.training.config import TrainConfig


@contextmanager
def quick(device: torch.device) -> Iterator[None]:
    """While a training runs on a GPU: float32 is multiplied as TF32 (ten bits of each factor), and cuDNN times its ways
    and takes the fastest, for a step's shapes stay the same. What was set before is set again.
    """  # noqa: D205
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark)
    cudnn.allow_tf32 = matmul.allow_tf32 = cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


def lowered(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Steps in bfloat16 (torch's autocast) where the configuration asks for it and the device is fast at it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.bf16 and is_fast(device))
