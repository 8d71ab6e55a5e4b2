import gzip
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from nodes.market_data.sources.replay import read_capture, read_captures

NS = 1_700_000_000_000_000_000


def write(path: Path, *lines: bytes, zipped: bool = True) -> Path:
    text = b"".join(line + b"\n" for line in lines)
    path.write_bytes(gzip.compress(text) if zipped else text)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("stamp", ["1700000000000", "1700000000000000", str(NS)])
def test_unit_of_receive_time_is_known_by_its_size(
    tmp_path: Path, stamp: str, zipped: bool
) -> None:
    path = write(tmp_path / "a", f'{stamp} {{"x": 1}}'.encode(), zipped=zipped)
    (frame,) = read_capture(path)
    assert frame == (NS, b'{"x": 1}', str(path))


def test_files_are_merged_by_time_and_equal_times_by_name(tmp_path: Path) -> None:
    later = write(tmp_path / "b.gz", f"{NS} b1".encode(), f"{NS + 5} b2".encode())
    earlier = write(tmp_path / "a.gz", f"{NS} a1".encode(), f"{NS + 9} a2".encode())
    frames = read_captures([later, earlier])
    assert [frame.raw for frame in frames] == [b"a1", b"b1", b"b2", b"a2"]


@pytest.mark.parametrize("line", [b"", b"hello", b"123", b"-5 {}", b"99 {}", b"1.5 {}"])
def test_what_is_no_capture_is_refused_in_one_line(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "bad.gz", line)
    with pytest.raises(ConfigError, match=r"bad\.gz") as refusal:
        list(read_capture(path))
    assert "\n" not in str(refusal.value)


def test_bad_line_is_named_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.gz", f"{NS} {{}}".encode(), b"oops")
    with pytest.raises(ConfigError, match="line 2"):
        list(read_capture(path))


def test_truncated_and_damaged_files_are_corrupt_captures(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.gz", *(f"{NS + n} {{{n}}}".encode() for n in range(999)))
    packed = whole.read_bytes()
    damaged = bytes([*packed[:200], *(byte ^ 0x55 for byte in packed[200:260]), *packed[260:]])
    for content in (packed[:-100], packed[:12], damaged):
        path = tmp_path / "broken.gz"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken\.gz"):
            list(read_capture(path))


def test_missing_and_empty_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        list(read_capture(tmp_path / "none.gz"))
    with pytest.raises(ConfigError, match="empty"):
        list(read_capture(write(tmp_path / "empty.gz")))
    with pytest.raises(ConfigError, match="directory"):
        list(read_capture(tmp_path))
