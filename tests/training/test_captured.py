"""Steps that are captured: which calls are one kind, and on a GPU that they do what steps do that are not."""

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from uadray.config import parse_config
from uadray.detectors.trainee import Trainee
from uadray.generators import catalog
from uadray.training.captured import (
    WARM_UP,
    CapturedMethod,
    GraphRecorder,
    Launch,
    Method,
    Results,
    capture_steps,
    copied,
    state_of,
    tensors_of,
)
from uadray.training.config import TrainConfig
from uadray.training.subject import build_networks, build_trainee

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: what runs on one was not tested")

GROWING = {"stage_images": 48, "fade_images": 48}
"""Six steps of eight images in each phase."""

SMALL: dict[str, dict[str, Any]] = {
    "dcgan": {"width": 8},
    "wgan_gp": {"width": 4, "critic_steps": 2},
    "pgan": GROWING | {"channel_base": 128, "channel_max": 16},
    "stylegan": GROWING | {"channel_base": 128, "channel_max": 16, "w_dim": 16},
    "stylegan2": {
        "channel_base": 128,
        "channel_max": 16,
        "w_dim": 16,
        "mapping_layers": 2,
        "r1_every": 2,
        "path_every": 2,
        "ada": {},
    },
}
"""By kind, what makes a generator small; those that name steps to capture are tested."""


class Lists:
    """A recorder that captures by remembering the arguments of the call."""

    def __init__(self, *, fails: bool = False) -> None:
        self.runs, self.captures, self._fails = 0, list[tuple[Any, ...]](), fails

    def run(self, method: Method, args: tuple[Any, ...]) -> Results:
        self.runs += 1
        return method(*args)

    def capture(self, method: Method, args: tuple[Any, ...]) -> Launch | None:
        self.captures.append(args)
        return None if self._fails else lambda now: {"from": torch.tensor(len(self.captures)), **method(*now)}


def _sums(x: Tensor, times: int) -> Results:
    return {"sum": x.sum() * times}


def test_each_kind_of_call_is_captured_once_after_its_warm_up() -> None:
    recorder = Lists()
    method = CapturedMethod(_sums, recorder)
    for n in range(6):
        for x, times in ((torch.full((2,), float(n)), 1), (torch.full((3,), float(n)), 1), (torch.ones(2) * n, 5)):
            found = method(x, times)
            assert found["sum"].item() == n * len(x) * times, "the tensors of this call, not those of the capture"
            assert ("from" in found) == (n >= WARM_UP)
    assert recorder.runs == 3 * WARM_UP
    assert [(len(x), times) for x, times in recorder.captures] == [(2, 1), (3, 1), (2, 5)]


def test_the_layout_and_the_type_of_a_tensor_are_part_of_its_kind() -> None:
    recorder = Lists()
    method = CapturedMethod(lambda x: {"x": x}, recorder)
    x = torch.zeros(2, 3, 4, 4)
    for each in (x, x.to(memory_format=torch.channels_last), x.double()):
        for _ in range(WARM_UP + 2):
            method(each)
    assert len(recorder.captures) == 3


def test_tensors_in_lists_are_those_of_the_call() -> None:
    """As parts of a batch with their shares come."""

    class Copies(Lists):
        def capture(self, method: Method, args: tuple[Any, ...]) -> Launch | None:
            own = copied(args)

            def launch(now: tuple[Any, ...]) -> Results:
                for kept, given in zip(tensors_of(own), tensors_of(now), strict=True):
                    kept.copy_(given)
                return method(*own)

            return launch

    method = CapturedMethod(lambda parts: {"sum": sum(part.sum() * share for part, share in parts)}, Copies())
    for n in range(6):
        parts = [(torch.full((2,), float(n + k)), 0.5) for k in range(2)]
        assert method(parts)["sum"].item() == 2 * n + 1


def test_a_new_phase_is_captured_anew() -> None:
    recorder, phase = Lists(), ["fade in 8 px"]
    method = CapturedMethod(_sums, recorder, lambda: phase[0])
    for phase[0] in ("fade in 8 px", "stabilise 8 px"):
        for _ in range(WARM_UP + 2):
            method(torch.ones(2), 1)
    assert len(recorder.captures) == 2
    assert recorder.runs == 2 * WARM_UP


def test_the_state_is_the_phase_and_the_learning_rates() -> None:
    config = _config("stylegan")
    trainee = build_trainee(config, build_networks(config))
    states = [state_of(trainee)]
    for images, rate in ((trainee.config.stage_images, 1e-3), (0, 2e-3)):  # type: ignore[attr-defined]
        trainee.counts["images_shown"] = images
        trainee.optimizers["generator"].param_groups[0]["lr"] = rate
        states.append(state_of(trainee))
    assert len(set(states)) == 3


def test_where_a_capture_fails_the_method_is_called() -> None:
    recorder = Lists(fails=True)
    method = CapturedMethod(_sums, recorder)
    assert [method(torch.ones(2), n).get("sum") for n in [3] * 8] == [6] * 8
    assert len(recorder.captures) == 1
    assert recorder.runs == 8


def _config(kind: str, *, bf16: bool = False) -> TrainConfig:
    values = {
        "name": kind, "generator": {"kind": kind, "input_px": 16, "latent_dim": 16} | SMALL[kind],
        "tiles": {"mpp": 1.0, "tile_px": 16}, "batch_size": 8, "captured": True, "bf16": bf16,
    }  # fmt: skip
    return parse_config(TrainConfig, values, source="test")


def test_on_a_cpu_nothing_is_captured(caplog: pytest.LogCaptureFixture) -> None:
    config = _config("dcgan")
    trainee = build_trainee(config, build_networks(config))
    before = trainee.step
    with caplog.at_level(logging.INFO):
        capture_steps(trainee, torch.device("cpu"))
    assert "steps are not captured: no GPU" in caplog.text
    assert trainee.step == before
    assert not any(group["capturable"] for optimizer in trainee.optimizers.values() for group in optimizer.param_groups)


def _trainee(config: TrainConfig, device: torch.device) -> Trainee:
    torch.manual_seed(0)
    networks = build_networks(config)
    for network in networks.values():
        network.to(device).to(memory_format=torch.channels_last).train()
    return build_trainee(config, networks)


def _as(other: Trainee, trainee: Trainee) -> None:
    """Bring a trainee to where another one stands."""
    for name, network in trainee.networks.items():
        network.load_state_dict(other.networks[name].state_dict())
    for name, optimizer in trainee.optimizers.items():
        optimizer.load_state_dict(copy.deepcopy(other.optimizers[name].state_dict()))
    trainee.counts.update(other.counts)


def _weights(trainee: Trainee) -> Tensor:
    return torch.cat([p.detach().flatten() for network in trainee.networks.values() for p in network.parameters()])


@pytest.mark.gpu
@NO_GPU
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", SMALL)
def test_a_captured_step_is_the_step_that_is_not(kind: str, bf16: bool) -> None:
    """Each of the last steps, of every kind, beside a plain one from the same state with the same random numbers.

    The two add in other orders. Adam makes a whole step of a gradient that is nearly nothing, so that single weights
    may differ by as much as they move: the mean may by a fifth of that.
    """
    config, device, again = (
        _config(kind, bf16=bf16),
        torch.device("cuda"),
        {"dcgan": 1, "wgan_gp": 2, "stylegan2": 2}.get(kind, 5),
    )
    if not getattr(catalog.file_of(config.generator).Trainee, "captured", ()):
        pytest.skip(f"{kind} names no steps to capture")
    captured, plain = _trainee(config, device), _trainee(config, device)
    capture_steps(captured, device)
    for i, x in enumerate(torch.rand((WARM_UP + 1) * again + 5, 8, 3, 16, 16, device=device) * 2 - 1):
        _as(captured, plain)
        random_state, before = torch.cuda.get_rng_state(), _weights(plain)
        found = _step(captured, config, x)
        torch.cuda.set_rng_state(random_state)
        expected = _step(plain, config, x)
        assert found == pytest.approx(expected, rel=0.05 if bf16 else 2e-3, abs=0.02 if bf16 else 1e-3), i
        moved = (_weights(plain) - before).abs().mean()
        assert (_weights(captured) - _weights(plain)).abs().mean() <= 0.2 * moved, i
    assert captured.counts == plain.counts


def _step(trainee: Trainee, config: TrainConfig, x: Tensor) -> dict[str, float]:
    with torch.autocast("cuda", torch.bfloat16, enabled=config.bf16):
        losses = trainee.step(x.contiguous(memory_format=torch.channels_last), 0.0)
    trainee.counts["images_shown"] = trainee.counts.get("images_shown", 0) + len(x)
    return {name: float(value) for name, value in losses.items()}


@pytest.mark.gpu
@NO_GPU
def test_random_numbers_are_drawn_anew_at_every_launch_and_are_those_without_a_graph() -> None:
    device = torch.device("cuda")

    def draw(x: Tensor) -> Results:
        return {"drawn": torch.randn(4, device=device) + x}

    method, x = CapturedMethod(draw, GraphRecorder(device)), torch.zeros(4, device=device)
    torch.manual_seed(0)
    expected = [draw(x)["drawn"].tolist() for _ in range(8)]
    torch.manual_seed(0)
    assert [method(x)["drawn"].tolist() for _ in range(8)] == expected
    assert len({tuple(row) for row in expected}) == 8


@pytest.mark.gpu
@NO_GPU
def test_a_step_that_waits_for_the_gpu_runs_without_a_graph(caplog: pytest.LogCaptureFixture) -> None:
    device = torch.device("cuda")

    def waits(x: Tensor) -> Results:
        drawn = torch.randn(4, device=device)
        return {"drawn": drawn * x.sum().item()}

    method, x = CapturedMethod(waits, GraphRecorder(device)), torch.ones(4, device=device)
    torch.manual_seed(0)
    expected = [waits(x)["drawn"].tolist() for _ in range(8)]
    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING):
        found = [method(x)["drawn"].tolist() for _ in range(8)]
    assert found == expected
    assert "steps cannot be captured, and run one kernel at a time: " in caplog.text
