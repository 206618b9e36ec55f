"""Features that several detectors share: the same to the bit, computed once, and never those of something else."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from uadray.networks.backbones import build_backbone
from uadray.networks.remembered import Memory, digests_of, maps_of

pytestmark = pytest.mark.usefixtures("torch_alone")


class Steps(nn.Module):
    """A trunk of linear steps that counts what it computes."""

    def __init__(self, *taps: int, weight: float = 1.0) -> None:
        super().__init__()
        self.taps, self.computed = taps, 0
        self.steps = nn.ParameterList(torch.tensor(weight + i) for i in range(max(taps) + 1))

    def start(self, x: Tensor) -> Tensor:
        return 2 * x

    def advance(self, y: Tensor, position: int) -> Tensor:
        self.computed += 1
        return y * self.steps[position] + 1

    def weights_at(self, position: int) -> dict[str, Tensor]:
        return {"w": self.steps[position]} if position >= 0 else {}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def _asked(memory: Memory, *asked: tuple[Steps, Tensor]) -> list[list[Tensor]]:
    with memory.batch():
        return [maps_of(trunk, x) for trunk, x in asked]


X = torch.linspace(-1, 1, 12).reshape(1, 3, 2, 2)


def test_a_deeper_network_goes_on_where_another_stopped() -> None:
    shallow, deep, memory = Steps(1), Steps(0, 3), Memory()
    expected = [maps_of(shallow, X), maps_of(deep, X)]
    for computed in ((2, 4), (2, 2)):  # at first it is not known that the other needs the position 0
        shallow.computed = deep.computed = 0
        found = _asked(memory, (shallow, X), (deep, X.clone()))
        assert (shallow.computed, deep.computed) == computed
        for own, other in zip(found, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
    assert memory.hits == 1
    deep.computed = shallow.computed = 0
    _asked(memory, (deep, X), (shallow, X), (shallow, X))
    assert (deep.computed, shallow.computed) == (4, 0)


def test_other_weights_inputs_and_batches_are_computed() -> None:
    memory, one, same, other = Memory(), Steps(1), Steps(1), Steps(1, weight=1.5)
    longer = Steps(3)
    with torch.no_grad():
        longer.steps[3].add_(1)
    found = _asked(memory, (one, X), (other, X), (same, X + 1), (same, X[:, :, :1]))
    assert (one.computed, other.computed, same.computed, memory.hits) == (2, 2, 4, 0)
    assert torch.equal(found[1][0], maps_of(other, X)[0])
    _asked(memory, (same, X))
    assert memory.hits == 0, "a batch is forgotten at its end"
    maps_of(one, X)
    assert memory.hits == 0, "outside nothing is remembered"
    assert digests_of(longer)[:3] == digests_of(one)
    with memory.batch():
        maps_of(one, X)
        with Memory().batch():
            maps_of(same, X)
        with torch.autocast("cpu", torch.bfloat16):
            maps_of(same, X)
    assert memory.hits == 1, "an inner memory is the outer one; another precision is another input"


def test_few_inputs_are_remembered_the_last_ones() -> None:
    memory, trunk = Memory(), Steps(0)
    inputs = [X + i for i in range(4)]
    _asked(memory, *((trunk, x) for x in [*inputs, inputs[3], inputs[1], inputs[0]]))
    assert memory.hits == 2


@pytest.mark.parametrize(("name", "layers", "others"), [
    ("efficientnet_lite0", ("block2",), ("block0", "block5")), ("alexnet", ("relu3",), ("relu1", "relu2")),
])  # fmt: skip
def test_backbones_share(name: str, layers: tuple[str, ...], others: tuple[str, ...]) -> None:
    one, other, memory = build_backbone(name, layers), build_backbone(name, others), Memory()
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    expected = [*one(x), *other(x)]
    for _ in range(2):
        with memory.batch():
            found = [*one(x), *other(x.clone())]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert memory.hits == 1


def test_with_gradients_nothing_is_remembered() -> None:
    with torch.inference_mode(False):
        memory, trunk = Memory(), Steps(0)
        _asked(memory, (trunk, X.clone()), (trunk, X.clone()))
        assert (memory.hits, trunk.computed) == (0, 2)
