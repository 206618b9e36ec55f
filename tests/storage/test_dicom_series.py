"""The series of a DICOM file, whatever its bytes are."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uadray.storage.dicom_series import series_uid

TOKENS = b"02001000 53510000 ffffffff feff00e0 feff0de0 00000000 55490200 20000e00".split()


@given(st.binary(max_size=200) | st.lists(st.sampled_from([bytes.fromhex(t.decode()) for t in TOKENS])).map(b"".join))
def test_any_bytes_are_dicom_or_not(data: bytes) -> None:
    with suppress(struct.error):
        assert isinstance(series_uid(bytes(128) + b"DICM" + data), str | None)
    assert series_uid(data + b"x" * 200) is None


def element(tag: tuple[int, int], vr: bytes, value: bytes, *, length: int | None = None) -> bytes:
    n_bytes = len(value) if length is None else length
    head = struct.pack("<HH", *tag) + vr
    return head + (struct.pack("<HI", 0, n_bytes) if vr in (b"SQ", b"OB") else struct.pack("<H", n_bytes)) + value


def test_the_series_of_a_file_is_not_that_of_what_it_refers_to() -> None:
    other = element((0x20, 0xE), b"UI", b"1.2.9\0")
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(other)) + other
    endless = struct.pack("<HHI", 0xFFFE, 0xE000, 2**32 - 1) + other + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    ends = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    start = bytes(128) + b"DICM" + element((2, 0x10), b"UI", b"1.2.840.10008.1.2.1\0")
    sequences = element((8, 0x1115), b"SQ", item) + element((8, 0x1115), b"SQ", endless + ends, length=2**32 - 1)
    own = element((0x20, 0xE), b"UI", b"1.2.3\0")
    assert series_uid(start + sequences + own) == "1.2.3"
    assert series_uid(start + sequences + element((0x20, 0x10), b"SH", b"") + own) is None  # tags ascend
    implicit = bytes(128) + b"DICM" + element((2, 0x10), b"UI", b"1.2.840.10008.1.2\0")
    implicit += struct.pack("<HHI", 8, 0x1115, 2**32 - 1) + struct.pack("<HHI", 0xFFFE, 0xE000, 0) + ends
    assert series_uid(implicit + struct.pack("<HHI", 0x20, 0xE, 6) + b"1.2.4\0") == "1.2.4"
    for length in range(132, len(start + sequences + own)):
        with pytest.raises(struct.error):
            series_uid((start + sequences + own)[:length])
