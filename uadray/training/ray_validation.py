"""The validation of a checkpoint on Ray: a task beside the training, whose end of whatever kind is the board's news."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uadray.cluster.datasets import answer, fetched
from uadray.cluster.tasks import Crashed, in_parallel
from uadray.training.board import sentence
from uadray.training.config import TrainConfig
from uadray.training.loop import Line
from uadray.training.validation import failed, judged


@dataclass(frozen=True)
class Validation:
    """What Ray Train calls for a checkpoint, in a light task of its own; that task waits for the one that works.

    Ray Train ends a training where the process of its validation dies. So the work is done one task further, and what
    becomes of it is told and not raised. That task asks for no CPU: it would take a reader's, and the training wait.

    Attributes:
        config: of the training, as a dict.
        validator: in Ray's object store.
        board: of the training.
        gpus: that it takes; none where all are the workers'.
    """

    config: dict[str, Any]
    validator: Any
    board: Any
    gpus: float

    def __call__(self, checkpoint: Any, epoch: int) -> dict[str, float]:
        """Tell the board of the figures, or why there are none. Ray Train gets none: it needs none."""
        for _, line in in_parallel(_guarded, [checkpoint], self, num_cpus=0, num_gpus=self.gpus):
            if isinstance(line, Crashed):
                answer(self.board.warn.remote(failed(epoch, line.message)))
            elif isinstance(line, str):
                answer(self.board.warn.remote(failed(epoch, line)))
            else:
                answer(self.board.post.remote(line))
        return {}


def _guarded(checkpoint: Any, validation: Validation) -> Line | str:
    """The line of a checkpoint's validation, or why there is none."""
    config = TrainConfig.model_validate(validation.config)
    try:
        with checkpoint.as_directory() as folder:
            device = "cuda" if validation.gpus else "cpu"
            return judged(config, fetched(validation.validator), Path(folder), device)
    except Exception as error:
        return sentence(error)
