"""LPIPS equals the authors' package, and its gradient is finite everywhere."""

import warnings
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torchvision_trunks import images, trunk_state

from uadray.networks import weights
from uadray.networks.lpips import LpipsNet, lpips_distance


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for the whole file, so that nothing is pulled twice."""
    root = tmp_path_factory.getbasetemp() / "perceptual-cache"
    monkeypatch.setenv("UADRAY_CACHE", str(root))
    return root


def library_lpips(net: Literal["alex", "vgg"]) -> Any:
    import lpips

    with warnings.catch_warnings():  # lpips 0.1.4 calls torchvision the old way
        warnings.filterwarnings("ignore", "The parameter 'pretrained' is deprecated", UserWarning)
        warnings.filterwarnings("ignore", "Arguments other than a weight enum", UserWarning)
        torch.manual_seed(2)
        return lpips.LPIPS(net=net, pretrained=True, pnet_rand=True, verbose=False)


@pytest.mark.parametrize(("net", "theirs"), [("alexnet", "alex"), ("vgg16", "vgg")])
def test_lpips_equals_the_authors(net: LpipsNet, theirs: Literal["alex", "vgg"]) -> None:
    """The published heads on a random trunk, the same in both."""
    authors = library_lpips(theirs)
    state = weights.load(f"lpips_{net}")
    for slice_name, module in authors.net.named_children():
        assert slice_name.startswith("slice")
        for position, layer in module.named_children():
            state |= {f"trunk.features.{position}.{key}": tensor for key, tensor in layer.state_dict().items()}
    ours = lpips_distance(net, state=state)
    x, y = images(3), images(3, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, y), authors(x, y).flatten(), atol=1e-5, rtol=1e-5)
        assert ours(x, x).tolist() == [0.0] * 3
        assert (ours(x, y) > 0).all()


def test_lpips_gradient_is_finite_where_features_vanish() -> None:
    state = {f"trunk.{k}": torch.zeros_like(v) for k, v in trunk_state("alexnet").items()}
    distance = lpips_distance("alexnet", state={**state, **weights.load("lpips_alexnet")})
    distance.train()
    assert not distance.trunk.training
    x = images().requires_grad_(True)
    distance(x, images(seed=1)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(("net", "theirs"), [("alexnet", "alex"), ("vgg16", "vgg")])
def test_lpips_with_the_published_trunks(net: LpipsNet, theirs: Literal["alex", "vgg"]) -> None:
    authors, trunk = library_lpips(theirs), weights.load(net)
    for module in authors.net.children():
        for position, layer in module.named_children():
            if isinstance(layer, nn.Conv2d):
                layer.load_state_dict({key: trunk[f"features.{position}.{key}"] for key in ("weight", "bias")})
    x = images(2)
    noisy = (x + 0.1 * images(2, seed=1)).clamp(-1, 1)
    ours = lpips_distance(net)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, noisy), authors(x, noisy).flatten(), atol=1e-5, rtol=1e-5)
        assert (ours(x, noisy) < ours(x, images(2, seed=1))).all()
