"""An elastic group of workers on a cluster where one fits, which takes every CPU: its tiles are read all the same."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from uadray.reports.pictures import encode_png

RUN = {
    "name": "e", "generator": {"kind": "wgan_gp", "input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 2},
    "tiles": {"mpp": 1.0, "tile_px": 16, "min_tissue": 0.0}, "epochs": 2, "steps_per_epoch": 5, "batch_size": 8,
    "shuffle_tiles": 32, "threads": 1, "min_workers": 1, "workers": 2,
}  # fmt: skip

SCRIPT = """
import json, sys
import ray
from uadray.commands.train import train
from uadray.config import parse_config
from uadray.training.config import TrainConfig
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=300 * 2**20, log_to_driver=False)
train(parse_config(TrainConfig, json.loads(sys.argv[1]), source="test"), data=sys.argv[2], out=sys.argv[3])
"""


@pytest.mark.ray
@pytest.mark.slow
def test_one_worker_trains_where_two_may(tmp_path: Path) -> None:
    folder = tmp_path / "tiles" / "normal"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(64):
        (folder / f"{n}.png").write_bytes(encode_png(rng.integers(0, 255, (16, 16, 3), np.uint8)))
    out = tmp_path / "out"
    command = [sys.executable, "-c", SCRIPT, json.dumps(RUN), str(folder.parent), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["images_shown"] for line in lines] == [40, 80], "tiles of one worker, not of two"
    progress = [json.loads(p.read_text()) for p in out.glob("checkpoints/checkpoint_*/progress.json")]
    assert {len(p["places"][0]) for p in progress} == {1}
