"""Records, sealed texts and arrays: read back as they were written, or refused by name."""

import json
import os
import re
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from fmce.digests import (
    check_file,
    digest_of,
    file_digest,
    read_arrays,
    read_record,
    read_record_or_none,
    read_sealed,
    seal,
    write_arrays,
    write_record,
)

FIELDS = {"loss": [0.1, 2.5e-7], "name": "Straße", "nested": {"2": None, "10": True}}


@pytest.mark.parametrize("indent", [1, None])
def test_a_record_comes_back_without_its_digest(tmp_path, indent):
    write_record(tmp_path / "a.json", FIELDS, indent=indent)
    assert read_record(tmp_path / "a.json") == FIELDS
    assert json.loads((tmp_path / "a.json").read_text()).keys() > FIELDS.keys()


def test_keys_that_are_numbers_and_tuples_do_not_disturb_it(tmp_path):
    write_record(tmp_path / "a.json", {"widths": {10: (1, 2), 9: ()}})
    assert read_record(tmp_path / "a.json") == {"widths": {"10": [1, 2], "9": []}}


def test_no_flip_of_any_bit_is_used(tmp_path):
    file = tmp_path / "a.json"
    write_record(file, FIELDS)
    content = file.read_bytes()
    used = 0
    for place in range(len(content)):
        for bit in range(8):
            file.write_bytes(
                content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]
            )
            with suppress(ValueError):
                found = read_record(file)
                # In white space, or in the name of the digest.
                used += 1
                assert {k: found.get(k) for k in FIELDS} == FIELDS
    assert used < 8 * 60


NO_RECORDS = [b"", b"\0" * 40, b"[1]", b"7", b'{"a": 1', b"\xff\xfe\x00", b"[" * 10**5]


@pytest.mark.parametrize("content", [*NO_RECORDS, b'{"a": ' + b"9" * 5000 + b"}"])
def test_what_is_no_record_is_named(tmp_path, content):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        read_record(file, ("a",), "make it again")


def test_a_missing_field_and_a_missing_file(tmp_path):
    write_record(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match=r"a\.json lacks b; .*delete it"):
        read_record(tmp_path / "a.json", ("a", "b"), "delete it")
    assert read_record_or_none(tmp_path / "b.json") is None


def test_a_pipe_is_not_waited_for_and_a_huge_file_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match="no regular file"):
        read_record(tmp_path / "pipe.json")
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"huge\.json has 1099511627776 bytes"):
        read_record(tmp_path / "huge.json")


def test_a_sealed_text_comes_back_and_an_edited_one_does_not(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(seal("a: 1\nb: 2\n"))
    assert read_sealed(file) == "a: 1\nb: 2\n"
    for length in range(len("# SHA-256 of the rest: "), len(file.read_text())):
        short = tmp_path / "short.yaml"
        short.write_text(file.read_text()[:length])
        with pytest.raises(ValueError, match="is damaged or was edited"):
            read_sealed(short)
    file.write_text("a: 1\n")
    assert read_sealed(file) == "a: 1\n"  # by hand


def test_arrays_come_back_and_damaged_ones_do_not(tmp_path):
    file = tmp_path / "a.npz"
    digest = write_arrays(file, {"x": np.arange(6).reshape(2, 3)})
    assert read_arrays(file, digest, "")["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"a\.npz is damaged.*run it"):
        read_arrays(file, digest, "run it")
    with pytest.raises(ValueError, match=r"a\.npz: expected arrays as in \.npz"):
        read_arrays(file, None, "run it")
    with pytest.raises(ValueError, match=r"b\.npz is missing"):
        read_arrays(tmp_path / "b.npz", digest, "run it")


def npy_header(shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize("shape", ["(30000000000000,)", "(10000000000, 3, 3)"])
def test_arrays_that_claim_terabytes_are_refused(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", npy_header(shape) + b"\0" * 100)
    with pytest.raises(ValueError, match=r"a\.npz: expected arrays"):
        read_arrays(tmp_path / "a.npz", None, "")


def test_arrays_that_unpack_to_gigabytes_are_refused(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("x.npy", "w", force_zip64=True) as part,
    ):
        for _ in range(2**11 + 1):
            part.write(b"\0" * 2**19)
    with pytest.raises(ValueError, match="more than 1073741824 bytes"):
        read_arrays(tmp_path / "a.npz", None, "")


def test_a_file_is_compared_with_its_digest(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"1")
    check_file(file, file_digest(file), "")
    with pytest.raises(ValueError, match=r"a is damaged: .*; make it again"):
        check_file(file, digest_of(2), "make it again")


def test_a_record_with_an_infinite_number_is_named(tmp_path):
    write_record(tmp_path / "a.json", {"a": 1})
    text = (tmp_path / "a.json").read_text().replace(": 1", ": 1e999")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        read_record(tmp_path / "a.json")
