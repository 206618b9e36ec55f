"""EfficientNet-Lite0 in training: the frozen one's maps in evaluation, normalised by the batch in training."""

import pytest
import torch
from torch import nn
from torchvision_trunks import images

from uadray.networks.backbones import build_backbone
from uadray.networks.trained_lite0 import TrainedLite0

pytestmark = pytest.mark.usefixtures("torch_alone")

LAYERS = ("block2", "block6")


def test_in_evaluation_it_gives_the_maps_of_the_frozen_one() -> None:
    x = images(size_px=32)
    with torch.no_grad():
        found = TrainedLite0(LAYERS, pretrained=True).eval()(x)
        for ours, theirs in zip(found, build_backbone("efficientnet_lite0", LAYERS)(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_in_training_it_normalises_by_the_batch_and_follows_it() -> None:
    network = TrainedLite0(LAYERS, pretrained=True)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    normalised: list[torch.Tensor] = []
    norms[0].register_forward_hook(lambda module, args, out: normalised.extend([args[0].detach(), out.detach()]))
    network(images(n=4, size_px=32))[-1].sum().backward()
    given, found = normalised
    variance, mean = torch.var_mean(given, (0, 2, 3), correction=0, keepdim=True)
    weight, bias = (t[:, None, None] for t in (norms[0].weight, norms[0].bias))
    expected = (given - mean) / (variance + norms[0].eps).sqrt() * weight + bias
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all(p.grad is not None for p in network.parameters())
    assert not any(torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True))  # type: ignore[arg-type]


def test_an_unknown_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="name one or several of block0"):
        TrainedLite0(("block16",), pretrained=False)
