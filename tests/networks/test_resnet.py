"""The residual network: that of torchvision where it is the paper's, and the sides of its maps."""

import pytest
import torch
from torchvision_trunks import images, torchvision_net

from uadray.networks.resnet import STAGES, ResNet, Stem

pytestmark = pytest.mark.usefixtures("torch_alone")


def _paper_names(key: str) -> str:
    """The name of a tensor in torchvision's network."""
    for ours, theirs in (
        ("stem.0", "conv1"), ("stem.1", "bn1"), ("stage", "layer"), ("residual.0", "conv1"), ("residual.1", "bn1"),
        ("residual.3", "conv2"), ("residual.4", "bn2"), ("shortcut", "downsample"),
    ):  # fmt: skip
        key = key.replace(ours, theirs)
    return key


def test_with_the_papers_stem_it_is_the_papers_network() -> None:
    theirs = torchvision_net("resnet18")
    ours = ResNet(STAGES, width=64, stem="quarter").eval()
    state = theirs.state_dict()
    ours.load_state_dict({key: state[_paper_names(key)] for key in ours.state_dict()})
    x = images()
    expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    with torch.no_grad():
        for stage, found in enumerate(ours(x), 1):
            expected = getattr(theirs, f"layer{stage}")(expected)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert ours.channels == (64, 128, 256, 512)


@pytest.mark.parametrize(
    ("stem", "sides"), [("full", (32, 16, 8, 4)), ("half", (16, 8, 4, 2)), ("quarter", (8, 4, 2, 1))]
)
def test_the_stem_sets_the_sides_of_the_maps(stem: Stem, sides: tuple[int, ...]) -> None:
    network = ResNet(STAGES, width=4, stem=stem)
    assert [f.shape[1:] for f in network(images(size_px=32))] == [
        (c, side, side) for c, side in zip((4, 8, 16, 32), sides, strict=True)
    ]


def test_it_ends_at_the_deepest_stage_asked_for() -> None:
    network = ResNet(("stage2", "stage1"), width=4, stem="half")
    assert not any(name.startswith("stage3") for name, _ in network.named_parameters())
    assert [f.shape[1] for f in network(images(size_px=16))] == [8, 4]
    with pytest.raises(ValueError, match="name one or several of stage1"):
        ResNet(("stage5",), width=4, stem="half")
