"""No URI leads out of what a configuration allows, however it is written."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uadray.serving.access.allowed_uris import ForbiddenUriError, check_slide, check_uri

ALLOWED = ("s3://slides/archive", "s3://whole")


@pytest.mark.parametrize(
    "uri", ["s3://slides/archive/a.svs", "s3://slides/archive/b/c d.svs", "s3://whole/x.tif", "s3://whole/ü.svs"]
)
def test_what_lies_below_a_prefix_may_be_read(uri: str) -> None:
    assert check_uri(uri, ALLOWED) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "s3://slides/a.svs", "s3://slides/archive2/a.svs", "s3://slides/archive.svs", "s3://other/archive/a.svs",
        "s3://slides/archive/../secret/a.svs", "s3://slides/archive/b/../../a.svs", "s3://slides/archive/./a.svs",
        "s3://slides/archive//a.svs", "s3://slides/archive/..", "s3://slides/archive/%2e%2e/a.svs",
        "s3://slides/archive/..%2Fa.svs", "s3://slides/archive/%2E./a.svs", "s3://slides/archive/\u2025/a.svs/..",
        "s3://slides/archive/..\\a.svs", "s3://slides/archive/..\uff0fa.svs",
        "s3://slides/archive/a.svs?versionId=1", "s3://slides/archive/a.svs#x", "s3://slides/archive/\x00a.svs",
        "s3://slides/archive/a\n.svs", " s3://slides/archive/a.svs", "s3://slides/archive/\u202ea.svs",
        "S3://slides/archive/a.svs", "s3://SLIDES/archive/a.svs", "s3://slides:80/archive/a.svs",
        "s3://user@slides/archive/a.svs", "s3://169.254.169.254/latest/meta-data", "s3:///archive/a.svs", "s3://",
        "http://169.254.169.254/latest/meta-data/", "https://slides/archive/a.svs", "gs://slides/archive/a.svs",
        "ftp://slides/archive/a", "file:///etc/passwd", "/etc/passwd", "../etc/passwd", "etc/passwd", "",
        "file://otherhost/etc/passwd", "s3://slides/archive/" + "a" * 3000, "data:,x", "s3a://slides/archive/a.svs",
    ],
)  # fmt: skip
def test_everything_else_may_not(uri: str) -> None:
    with pytest.raises(ForbiddenUriError) as refused:
        check_uri(uri, ALLOWED)
    assert len(str(refused.value)) < 120


def test_a_folder_is_left_by_no_path_and_no_link(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "slides", tmp_path / "secret"
    (allowed / "deep").mkdir(parents=True)
    secret.mkdir()
    for path in (allowed / "a b.svs", allowed / "deep" / "a.svs", secret / "a.svs", tmp_path / "slides.svs"):
        path.write_bytes(b"")
    (allowed / "link.svs").symlink_to(secret / "a.svs")
    (allowed / "folder").symlink_to(secret)
    (allowed / "inner.svs").symlink_to(allowed / "deep" / "a.svs")
    good = {
        f"{allowed}/a b.svs": "a b.svs", f"file://{allowed}/a%20b.svs": "a b.svs",
        f"file://localhost{allowed}/deep/a.svs": "deep/a.svs", f"{allowed}/deep/../a b.svs": "a b.svs",
        f"{allowed}/inner.svs": "deep/a.svs", f"{allowed}/not-there.svs": "not-there.svs",
    }  # fmt: skip
    for uri, expected in good.items():
        assert check_uri(uri, (str(allowed),)) == str(allowed / expected)
        assert check_uri(uri, (f"file://{allowed}/",)) == str(allowed / expected)
    for uri in (
        f"{allowed}/../secret/a.svs", f"file://{allowed}/%2e%2e/secret/a.svs", f"{allowed}/link.svs",
        f"{allowed}/folder/a.svs", f"{allowed}/folder/../slides.svs", f"{tmp_path}/slides.svs", str(secret / "a.svs"),
        f"{allowed}/deep/../../secret/a.svs", f"file://{allowed}/%00", f"FILE://{secret}/a.svs",
        f"/proc/self/root{secret}/a.svs",
    ):  # fmt: skip
        with pytest.raises(ForbiddenUriError):
            check_uri(uri, (str(allowed),))
        with pytest.raises(ForbiddenUriError):
            check_uri(uri, ALLOWED)


def test_a_slide_of_several_files_must_lie_inside_with_all_of_them(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "slides", tmp_path / "secret"
    (allowed / "a").mkdir(parents=True)
    secret.mkdir()
    (allowed / "a.mrxs").write_bytes(b"")
    (allowed / "a" / "Data0000.dat").write_bytes(b"0")
    (secret / "Data0001.dat").write_bytes(b"1")
    uri = str(allowed / "a.mrxs")
    assert check_slide(uri, (str(allowed),)) == uri
    (allowed / "a" / "Data0001.dat").symlink_to(secret / "Data0001.dat")
    with pytest.raises(ForbiddenUriError):
        check_slide(uri, (str(allowed),))


@given(
    st.text(max_size=60), st.sampled_from(["s3://slides/archive/", "s3://slides/archive", "s3://", "file://", "/", ""])
)
def test_whatever_is_written_behind_a_prefix_stays_below_it(text: str, start: str) -> None:
    """By the rules of those who take URIs apart: S3 clients, which join keys to addresses, and the file system."""
    try:
        place = check_uri(start + text, ALLOWED)
    except ForbiddenUriError:
        return
    bucket, _, key = place.removeprefix("s3://").partition("/")
    joined = os.path.normpath(f"/{bucket}/{key}")
    assert joined.startswith(("/slides/archive", "/whole"))
    assert joined.rstrip("/") == f"/{bucket}/{key}".rstrip("/")
