"""What a training tells Ray's metrics: its driver counts, since workers come and go, and a rate needs a beginning."""

import hashlib
import math
from typing import final

from uadray import metrics
from uadray.training.board import Tally
from uadray.training.config import TrainConfig
from uadray.training.loop import Line


def run_of(out: str) -> str:
    """The label of the training in a folder; the same for one that goes on there.

    >>> run_of("s3://b/t") == run_of("s3://b/t"), len(run_of("s3://b/t"))
    (True, 14)
    """
    return f"train-{hashlib.sha256(out.encode()).hexdigest()[:8]}"


@final
class TrainingMetrics:
    """The metrics of one training.

    Args:
        config: of the training.
        run: the label.
        cores: CPUs and GPUs that it may use.
    """

    def __init__(self, config: TrainConfig, run: str, *, cores: tuple[float, float]) -> None:
        self._on_gpu = config.use_gpu
        metrics.start_run(run, kind="train", info={"detector": getattr(config, config.section).kind})
        for kind, value in zip(("cpu", "gpu"), cores, strict=True):
            metrics.set_gauge(metrics.CORES, value, kind=kind)

    def tell(self, lines: list[Line], tally: Tally) -> None:
        """Count what has been done, and tell how far the training is."""
        metrics.Meter("train_step").add(tiles=tally.tiles, seconds=tally.seconds)
        metrics.count(metrics.WAIT_SECONDS, tally.waited_s, on="data")
        if self._on_gpu:
            metrics.count(metrics.GPU_SECONDS, tally.seconds - tally.waited_s, stage="train_step")
        for name, value in tally.mean_losses().items():
            if math.isfinite(value):
                metrics.set_gauge(metrics.TRAIN_LOSS, value, loss=name)
        if steps := [int(line["step"]) for line in lines if not line.get("validated")]:
            metrics.set_gauge(metrics.TRAIN_STEP, steps[-1])
        for line in lines:
            if "fid" in line:  # of whoever measures one at the end of an epoch
                metrics.set_gauge(metrics.TRAIN_FID, float(line["fid"]))
