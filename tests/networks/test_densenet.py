"""DenseNet against torchvision's, and its published file in the layout in which it was published."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision_trunks import images, torchvision_net

from uadray.classifiers.densenet import Config, networks
from uadray.errors import WorkError
from uadray.networks import weight_sources, weights
from uadray.networks.backbones import SCALE, SHIFT
from uadray.networks.densenet import BLOCKS, GROWTH, STEM, DenseNet, least_px, load_published

pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UADRAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def test_densenet_121_is_that_of_torchvision() -> None:
    theirs = torchvision_net("densenet121")
    ours = DenseNet(growth=GROWTH, blocks=BLOCKS, stem=STEM, classes=1000).eval()
    ours.load_state_dict(theirs.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == 7_978_856
    x = images(2, 64)
    shift, scale = (torch.tensor(each).view(3, 1, 1) for each in (SHIFT, SCALE))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs((x - shift) / scale))


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_the_least_side_leaves_one_position(blocks: int) -> None:
    network = DenseNet(growth=2, blocks=(1,) * blocks, stem=2, classes=2).eval()
    side = least_px(blocks)
    with torch.no_grad():
        assert network.features(images(1, side)).shape[2:] == (1, 1)
        if blocks > 1:
            with pytest.raises(RuntimeError, match="too small"):
                network(images(1, side - 1))


def test_the_published_file_fills_the_trunk_alone(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the published layout: names of before modules could not have points, no counts of batches."""
    theirs = torchvision_net("densenet121")
    old_names = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): t
        for key, t in theirs.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old_names
    entry = next(e for e in weights.registry() if e.name == "densenet121")
    path = tmp_path / entry.sources[0].file_name
    torch.save(old_names, path, _use_new_zipfile_serialization=False)
    written = replace(entry.sources[0], sha256=weight_sources.sha256_of(path), size_bytes=path.stat().st_size)
    monkeypatch.setattr("uadray.networks.weights.registry", lambda: (replace(entry, sources=(written,)),))
    weights.ensure("densenet121", mirror=str(tmp_path))  # refused unless it has the pinned number of bytes
    ours = networks(Config(kind="densenet121", pretrained=True), pretrained=True)["network"]
    state = ours.state_dict()
    assert all(torch.equal(state[k], t) for k, t in theirs.features.state_dict(prefix="features.").items())
    assert state["classifier.weight"].shape == (2, 1024)
    small = DenseNet(growth=2, blocks=(1, 1), stem=2, classes=2)
    with pytest.raises(ValueError, match="are of another network"):
        load_published(small)


def test_weights_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    config = Config(kind="densenet121", pretrained=True)
    with pytest.raises(WorkError, match=r"weights densenet121: no source could be had .*densenet121-a639ec97\.pth"):
        networks(config, pretrained=True)
    assert networks(config, pretrained=False)["network"].features.conv0.weight.shape == (64, 3, 7, 7)
