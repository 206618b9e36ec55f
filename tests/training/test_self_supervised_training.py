"""Self-supervised training, on Ray and without it: workers end alike, and a killed run goes on as if it never was."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.torch import load_file

from uadray.commands.train import train
from uadray.config import parse_config
from uadray.reports.pictures import encode_png
from uadray.training import worker_group
from uadray.training.config import TrainConfig

pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")  # Ray, of its own options

RUN: dict[str, Any] = {
    "name": "views",
    "detector": {
        "kind": "self_supervised", "input_px": 16, "encoder": {"width": 4}, "views": {"view_px": 16}, "projected": 8,
        "projector_width": 8, "components": 4, "density_share": 0.3,
    },
    "tiles": {"mpp": 1.0, "tile_px": 20, "min_tissue": 0.0, "quality": None}, "epochs": 4, "steps_per_epoch": 6,
    "batch_size": 8, "shuffle_tiles": 64, "threads": 1, "seed": 5,
}  # fmt: skip
KILLED = """
import os
from uadray.cli import main
from uadray.detectors.self_supervised import Trainee
step, count = Trainee.step, [0]
def counted(self, x, progress):
    count[0] += 1
    if count[0] == {at}:
        os.kill(os.getpid(), 9)
    return step(self, x, progress)
Trainee.step = counted
main()
"""


@pytest.fixture(scope="module")
def tile_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiles") / "normal"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(400):
        tile = cv2.resize(rng.integers(60, 220, (4, 4, 3), dtype=np.uint8), (20, 20))
        (folder / f"{n:03d}.png").write_bytes(encode_png(tile))
    return str(folder.parent)


def _weights(out: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_file(out / "weights.safetensors").items()}


@pytest.fixture(scope="module")
def whole(tile_set: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The weights of a training that nobody stopped."""
    out = tmp_path_factory.mktemp("whole")
    train(parse_config(TrainConfig, RUN, source="test"), data=tile_set, out=str(out), without_ray=True)
    return _weights(out)


@pytest.mark.parametrize("at", [9, 21], ids=["encoder", "density"])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    at: int, whole: dict[str, np.ndarray], tile_set: str, tmp_path: Path
) -> None:
    """To the last bit of every weight, whether it was killed in the first phase or in the second."""
    config = parse_config(TrainConfig, RUN, source="test")
    (tmp_path / "run.yaml").write_text(json.dumps(RUN))
    command = ["train", str(tmp_path / "run.yaml"), "--data", tile_set, "--out", str(tmp_path / "out"), "--without-ray"]
    killed = subprocess.run([sys.executable, "-c", KILLED.format(at=at), *command], check=False, timeout=120)
    assert killed.returncode == -9
    train(config, data=tile_set, out=str(tmp_path / "out"), resume=True, without_ray=True)
    resumed = _weights(tmp_path / "out")
    assert whole.keys() == resumed.keys()
    for name, expected in whole.items():
        np.testing.assert_array_equal(resumed[name], expected, err_msg=name)


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_end_with_the_same_networks(
    ray_cluster: None, tile_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoder, projector and density, as each worker has them in the end, though each saw tiles of its own."""
    folder = str(tmp_path)

    def saving(settings: dict[str, Any]) -> None:
        """The worker as it is; then its networks are written, which only the first one's are otherwise."""
        from ray.train import get_context

        from uadray.networks.weights_file import save_networks
        from uadray.training import worker

        build, built = worker.build_trainee, []

        def keeping(*args: Any, **options: Any) -> Any:
            built.append(build(*args, **options))
            return built[0]

        worker.build_trainee = keeping
        worker.train_worker(settings)
        save_networks(Path(folder) / f"rank{get_context().get_world_rank()}.safetensors", built[0].networks)

    monkeypatch.setattr(worker_group, "train_worker", saving)
    config = parse_config(TrainConfig, RUN | {"workers": 2}, source="test")
    bundle = train(config, data=tile_set, out=str(tmp_path / "out"))
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(second[name].numpy(), tensor.numpy(), err_msg=name)
    for name, array in _weights(tmp_path / "out").items():
        np.testing.assert_array_equal(first[name].numpy(), array, err_msg=name)
    assert bundle.metrics["deviation"] > 0
    assert first["moments.count"] > 0
