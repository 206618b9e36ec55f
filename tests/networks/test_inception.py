"""The Inception of the FID: its layout against torchvision's, its pools and its resize by hand, its file as published.

The published weights could not be had: that its figures are the published ones has not been shown.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from uadray.errors import InputError
from uadray.networks import weights
from uadray.networks.inception import FEATURES, Inception, enlarged, inception, mean_of_neighbours
from uadray.networks.weight_readers import inception_trunk

pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture(scope="module")
def published_layout() -> dict[str, Tensor]:
    """Random weights in the layout of the published file, which torchvision's class has with 1008 outputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                module.weight.data.uniform_(0.5, 2)
                module.bias.data.normal_(0, 0.1)
    return dict(net.state_dict())


def test_names_shapes_and_counts_are_those_of_the_file(published_layout: dict[str, Tensor]) -> None:
    """566 entries; the parameters without the classifier of 1008 outputs are torchvision's."""
    assert len(published_layout) == 566
    with torch.device("meta"):
        network = Inception()
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert own == {n: t.shape for n, t in published_layout.items() if not n.startswith("fc.")}
    assert sum(p.numel() for p in network.parameters()) == 23_850_960 - 1008 * 2049
    assert published_layout["fc.weight"].shape == (1008, FEATURES)


class _TensorFlowsPools:
    """torchvision's functions, but for means that count no padding and, where `is_maximum`, are maxima."""

    is_maximum = False

    def __getattr__(self, name: str) -> Any:
        return getattr(F, name)

    def avg_pool2d(self, x: Tensor, **sizes: Any) -> Tensor:
        if self.is_maximum:
            return F.max_pool2d(x, **sizes)
        ones = torch.ones_like(x[:1, :1])
        return F.avg_pool2d(x, **sizes) / F.avg_pool2d(ones, **sizes)


def test_features_are_torchvisions_with_tensorflows_pools(
    published_layout: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = torchvision.models.Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    net.load_state_dict(published_layout)
    pools = _TensorFlowsPools()
    monkeypatch.setattr(torchvision.models.inception, "F", pools)
    net.Mixed_7c.register_forward_pre_hook(lambda *_: setattr(pools, "is_maximum", True))
    net.fc = nn.Identity()
    y = torch.rand(1, 3, 139, 139, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        expected = net(y)
        features = inception(state=published_layout).pooled(y)
    assert features.shape == (1, FEATURES)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01


def test_pictures_of_any_size_become_299_px(published_layout: dict[str, Tensor]) -> None:
    network = inception(state=published_layout)
    x = torch.full((1, 3, 32, 32), 0.25)
    grey = torch.full((1, 3, 299, 299), (127.5 * 1.25 - 128) / 128)
    with torch.no_grad():
        torch.testing.assert_close(network(x), network.pooled(grey), rtol=1e-3, atol=1e-4)
    assert not network.train().training


@pytest.mark.parametrize(("height", "width", "side"), [(5, 7, 11), (8, 8, 13), (9, 6, 4)])
def test_resize_by_loops(height: int, width: int, side: int) -> None:
    """Corner on corner, the last row and column repeated; smaller, rows are left out."""
    x = torch.rand(1, 2, height, width, generator=torch.Generator().manual_seed(0))
    y = enlarged(x, side)
    for i in range(side):
        for j in range(side):
            v, u = i * height / side, j * width / side
            top, left = int(v), int(u)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = v - top, u - left
            expected = (1 - a) * ((1 - b) * x[0, :, top, left] + b * x[0, :, top, right])
            expected = expected + a * ((1 - b) * x[0, :, bottom, left] + b * x[0, :, bottom, right])
            torch.testing.assert_close(y[0, :, i, j], expected, rtol=1e-4, atol=1e-5)


def test_means_leave_the_padding_out() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    expected = [[2.0, 2.5, 3.0], [3.5, 4.0, 4.5], [5.0, 5.5, 6.0]]
    assert mean_of_neighbours(x)[0, 0].tolist() == expected


def test_a_file_in_the_published_layout_is_stored_and_read(
    published_layout: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the size that is pinned, for it follows from names and shapes; with and without counters of batches."""
    bare = {name: tensor for name, tensor in published_layout.items() if not name.endswith("num_batches_tracked")}
    (tmp_path / "mirror").mkdir()
    path = tmp_path / "mirror" / "weights.pth"
    torch.save(bare, path)
    entry = next(e for e in weights.registry() if e.name == "inception_fid")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = replace(entry.sources[0], file_name=path.name, size_bytes=path.stat().st_size, sha256=digest)
    monkeypatch.setattr(weights, "registry", lambda: (replace(entry, sources=(source,)),))
    monkeypatch.setenv("UADRAY_CACHE", str(tmp_path / "cache"))
    weights.pull("inception_fid", mirror=str(tmp_path / "mirror"))
    assert weights.verify("inception_fid") is weights.Status.RECORDED
    loaded = inception().state_dict()
    assert all(torch.equal(loaded[name], bare[name]) for name in bare if not name.startswith("fc."))
    torch.save(published_layout, path)
    whole = inception_trunk(path)
    assert whole.keys() == loaded.keys()


def test_weights_of_another_network_are_refused(published_layout: dict[str, Tensor]) -> None:
    state = {name: tensor for name, tensor in published_layout.items() if "Mixed_7c" not in name}
    with pytest.raises(InputError, match=r"the weights given lack Mixed_7c"):
        inception(state=state)


def test_the_pinned_file_bears_the_digits_of_its_name() -> None:
    sources = next(e for e in weights.registry() if e.name == "inception_fid").sources
    assert all("6726825d" in s.file_name and s.sha256.startswith("6726825d") for s in sources)
