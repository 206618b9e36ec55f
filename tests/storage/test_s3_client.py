"""Connections to S3: what they depend on."""

from pathlib import Path

import pytest
from seaweed import SeaweedServer

from uadray.storage import s3_client


@pytest.mark.s3
def test_a_connection_changes_with_the_environment(s3: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3_client.connect() is s3_client.connect()
    before = s3_client.connect()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert s3_client.connect() is not before


def test_settings_that_only_botocore_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nca_bundle = /etc/hospital.pem\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert s3_client.connect().ca_bundle == "/etc/hospital.pem"
