"""S3 as pyarrow sees it: what is pickled holds no secret, and credentials are those of the process, as they are now."""

import base64
import io
import json
import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from seaweed import SeaweedServer

from uadray.errors import ChangedError, UadrayError
from uadray.storage import objects

pytestmark = pytest.mark.s3


def test_what_is_pickled_holds_no_secret_and_works_elsewhere(s3: SeaweedServer) -> None:
    uri = f"s3://{s3.bucket}/arrow/a"
    filesystem, path = objects.pyarrow_filesystem(uri)
    objects.write_bytes(uri, b"mine")
    pickled = pickle.dumps(filesystem)
    for secret in (s3.env["AWS_SECRET_ACCESS_KEY"], s3.env["AWS_ACCESS_KEY_ID"]):
        assert secret.encode() not in pickled
    code = (
        "import base64, pickle, sys; f = pickle.loads(base64.b64decode(sys.argv[1])); "
        "print(f.open_input_file(sys.argv[2]).read())"
    )
    command = [sys.executable, "-c", code, base64.b64encode(pickled).decode(), path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "b'mine'"


def test_what_ray_train_does_with_a_checkpoint(s3: SeaweedServer, tmp_path: Path) -> None:
    filesystem, path = objects.pyarrow_filesystem(f"s3://{s3.bucket}/arrow/run/")
    rng = np.random.default_rng(0)
    files = {"networks.safetensors": rng.bytes(9 * 2**20), "deep/progress.json": b"{}", "empty": b""}
    for name, data in files.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(data)
    filesystem.create_dir(path)
    fs.copy_files(str(tmp_path / "here"), f"{path}/c", destination_filesystem=filesystem, chunk_size=64 * 2**20)
    assert filesystem.get_file_info(f"{path}/c").type == fs.FileType.Directory
    assert filesystem.get_file_info(f"{path}/c/deep/progress.json").size == 2
    assert filesystem.get_file_info(f"{path}/none").type == fs.FileType.NotFound
    (tmp_path / "back").mkdir()
    fs.copy_files(f"{path}/c", str(tmp_path / "back"), source_filesystem=filesystem)
    assert {name: (tmp_path / "back" / name).read_bytes() for name in files} == files
    shallow = filesystem.get_file_info(fs.FileSelector(f"{path}/c", recursive=False))
    assert {(info.base_name, info.type) for info in shallow} == {
        ("networks.safetensors", fs.FileType.File), ("empty", fs.FileType.File), ("deep", fs.FileType.Directory),
    }  # fmt: skip
    filesystem.delete_dir(f"{path}/c")
    assert filesystem.get_file_info(f"{path}/c").type == fs.FileType.NotFound
    assert filesystem.get_file_info(fs.FileSelector(f"{path}/c", allow_not_found=True)) == []
    with pytest.raises(FileNotFoundError, match="there is no such object"):
        filesystem.open_input_file(f"{path}/c/empty")


def test_parquet_is_read_in_ranges_of_one_version(s3: SeaweedServer) -> None:
    uri = f"s3://{s3.bucket}/arrow/t.parquet"
    sink = io.BytesIO()
    table = pa.table({"a": range(10_000)})
    pq.write_table(table, sink, row_group_size=1000)
    objects.write_bytes(uri, sink.getvalue())
    filesystem, path = objects.pyarrow_filesystem(uri)
    file = pq.ParquetFile(path, filesystem=filesystem)
    assert file.read_row_group(7).equals(table.slice(7000, 1000))
    objects.write_bytes(uri, sink.getvalue()[::-1])
    with pytest.raises(ChangedError, match=r"t\.parquet: the object has changed"):
        file.read_row_group(3)


def test_a_write_that_breaks_off_leaves_nothing(s3: SeaweedServer) -> None:
    filesystem, path = objects.pyarrow_filesystem(f"s3://{s3.bucket}/arrow/half")
    stream = filesystem.open_output_stream(path)
    stream.write(b"half")
    del stream
    assert not objects.exists(f"s3://{s3.bucket}/arrow/half")


@pytest.mark.parametrize("kept_in", ["credentials", "process"])
def test_keys_that_are_renewed_are_picked_up(
    s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept_in: str
) -> None:
    """As a role's keys are: the file system that was made with the old ones goes on with the new."""

    def keys_are(secret: str) -> None:
        keys = {"AccessKeyId": s3.env["AWS_ACCESS_KEY_ID"], "SecretAccessKey": secret, "Version": 1}
        expiry = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()  # so soon that botocore asks again each time
        (tmp_path / "keys.json").write_text(json.dumps(keys | {"SessionToken": "", "Expiration": expiry}))
        if kept_in == "credentials":
            lines = [f"aws_access_key_id={keys['AccessKeyId']}", f"aws_secret_access_key={secret}"]
            (tmp_path / "credentials").write_text("\n".join(["[default]", *lines]))

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    process = f"credential_process = cat {tmp_path / 'keys.json'}" if kept_in == "process" else ""
    (tmp_path / "config").write_text(f"[default]\n{process}\n")
    keys_are(s3.env["AWS_SECRET_ACCESS_KEY"])
    filesystem, path = objects.pyarrow_filesystem(f"s3://{s3.bucket}/arrow/renewed")
    with filesystem.open_output_stream(path) as stream:
        stream.write(b"first")
    keys_are("out-of-date")
    with pytest.raises(UadrayError, match="SignatureDoesNotMatch"):
        filesystem.get_file_info(path)
    keys_are(s3.env["AWS_SECRET_ACCESS_KEY"])
    assert filesystem.open_input_file(path).read() == b"first"
