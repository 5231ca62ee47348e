"""Shards of frames: what other readers of WebDataset see, ranges by the index, damage, addresses."""

import gc
import io
import json
import tarfile

import fsspec
import pytest

from fmce.data.frames.shards import (
    Shard,
    ShardFolder,
    ShardReader,
    excluded_frames,
    holds_shards,
    index_shard,
    open_shards,
    write_index,
    write_shard,
)
from fmce.digests import read_record

webdataset = pytest.importorskip("webdataset")


def content(number):
    return bytes([number]) * (100 + 700 * (number % 3))  # below and above tar's blocks of 512


def keys(prefix, count, every=5):
    return [f"{prefix}-{number * every:07d}" for number in range(count)]


def make_folder(folder, **counts):
    """Write one shard a prefix with that many "images" and the index."""
    folder.mkdir(exist_ok=True)
    shards = []
    for prefix, count in counts.items():
        path = folder / f"{prefix}-0000.tar"
        write_shard(path, ((key, content(i)) for i, key in enumerate(keys(prefix, count))))
        shards.append(index_shard(path, prefix, 0, 5))
    write_index(folder, shards, {})
    return folder


def read_all(folder):
    reader = ShardReader(folder)
    return {
        key: raw
        for shard in folder.shards
        for chunk in range(shard.num_chunks)
        for key, raw in zip(shard.chunk_keys(chunk), reader.fetch(shard, chunk), strict=True)
    }


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "shards", a=37, b=16)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # it leaves tars open
def test_webdataset_itself_reads_the_same_frames(folder):
    theirs = {
        sample["__key__"]: sample["jpg"]
        for name in ("a-0000.tar", "b-0000.tar")
        for sample in webdataset.WebDataset(str(folder / name), shardshuffle=False)
    }
    gc.collect()  # here, where the warning is passed over
    assert theirs == {
        key: content(i) for p, n in (("a", 37), ("b", 16)) for i, key in enumerate(keys(p, n))
    }
    assert read_all(open_shards(str(folder))) == theirs


def test_index_offsets_are_those_of_the_tar_headers(folder):
    (shard, _) = open_shards(str(folder)).shards
    with tarfile.open(folder / shard.name) as tar:
        starts = [member.offset for member in tar]
    assert shard.offsets[:-1] == (starts[0], starts[16], starts[32])
    assert [shard.chunk_size(i) for i in range(shard.num_chunks)] == [16, 16, 5]


def test_the_same_frames_give_the_same_bytes(tmp_path):
    first, second = (make_folder(tmp_path / name, a=3) for name in ("x", "y"))
    assert (first / "a-0000.tar").read_bytes() == (second / "a-0000.tar").read_bytes()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # fsspec's own memory files
def test_shards_at_an_address_read_like_local_ones(folder):
    files = fsspec.filesystem("memory")
    for path in folder.glob("[!.]*"):
        files.pipe_file(f"/bucket/frames/{path.name}", path.read_bytes())
    remote = open_shards("memory://bucket/frames")
    local = open_shards(str(folder))
    assert remote.shards == local.shards
    assert read_all(remote) == read_all(local)
    assert read_all(open_shards(f"file://{folder}")) == read_all(local)


def test_a_part_is_read_without_the_rest(folder):
    opened = open_shards(str(folder))
    shard = opened.shards[0]
    path = folder / shard.name
    raw = bytearray(path.read_bytes())
    raw[: shard.offsets[1]] = bytes(shard.offsets[1])  # the first stretch is wiped out
    path.write_bytes(raw)
    reader = ShardReader(opened)
    assert reader.fetch(shard, 0) == [b""] * 16
    assert reader.fetch(shard, 1) == [content(i) for i in range(16, 32)]


def test_a_shard_cut_short_or_missing_gives_empty_files_in_the_lost_places(folder):
    opened = open_shards(str(folder))
    shard = opened.shards[0]
    raw = (folder / shard.name).read_bytes()
    (folder / shard.name).write_bytes(raw[: shard.offsets[2] + 1024])
    reader = ShardReader(opened)
    assert reader.fetch(shard, 1) == [content(i) for i in range(16, 32)]
    assert reader.fetch(shard, 2)[1:] == [b""] * 4
    (folder / shard.name).unlink()
    assert reader.fetch(shard, 1) == [b""] * 16


def test_excluded_videos_are_left_out_by_stem_and_by_bdd100ks_names(tmp_path):
    counts = {"a": 2, "drive_front": 2, "b1c81faa-3df17267": 2, "b1c81faa-3df17268": 2}
    address = str(make_folder(tmp_path / "shards", **counts))
    kept = open_shards(address, exclude=["a", "drive.front", "b1c81faa-3df17267"])
    assert [shard.prefix for shard in kept.shards] == ["b1c81faa-3df17268"]


def test_single_frames_are_excluded_by_their_own_keys(folder):
    opened = open_shards(str(folder))
    assert excluded_frames(opened, ["a-0000005", "b-0000010", "c-0000000"]) == [1, 37 + 2]


def test_a_folder_without_an_index_is_refused_with_the_remedy(folder):
    (folder / "shards.json").unlink()
    assert holds_shards(str(folder))  # tars, so no folder of images
    with pytest.raises(ValueError, match=r"give its command again.*of other programs.*unpack"):
        open_shards(str(folder))


def test_an_index_of_another_chunk_size_is_refused(folder):
    path = folder / "shards.json"
    path.write_text(json.dumps(read_record(path) | {"chunk": 32}))
    with pytest.raises(ValueError, match="make the shards again"):
        open_shards(str(folder))


@pytest.mark.parametrize("index", [{}, {"chunk": 16}, {"chunk": 16, "shards": [{"name": "a.tar"}]}])
def test_an_index_of_something_else_is_refused_with_what_is_expected(folder, index):
    (folder / "shards.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"shards\.json what `fmce frames` writes.*offsets"):
        open_shards(str(folder))


def test_a_description_survives_json(folder):
    opened = open_shards(str(folder))
    assert ShardFolder.from_dict(json.loads(json.dumps(opened.to_dict()))) == opened


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_megabytes_is_refused_at_once(tmp_path, kind):
    # Some versions of Python search such digits for hours.
    content = b"%d size=" % (10**7 + 20) + b"9" * 10**7 + b"\n"
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, len(content)
    path = tmp_path / "clip-0000.tar"
    path.write_bytes(header.tobuf() + content + b"\0" * 1024)
    with pytest.raises(ValueError, match=rf"{path}: expected .* an extended header of 1\d+ bytes"):
        index_shard(path, "clip", 0, 1)
    shard = Shard(path.name, "clip", 0, 1, 16, (0, path.stat().st_size))
    assert ShardReader(ShardFolder(str(tmp_path), (shard,))).fetch(shard, 0) == [b""] * 16


def test_a_member_that_is_no_file_is_refused(tmp_path):
    path = tmp_path / "clip-0000.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("clip-0000000.jpg")
        member.type = tarfile.CHRTYPE
        tar.addfile(member)
    with pytest.raises(
        ValueError, match=rf"{path}: expected .*clip-0000000.jpg is no regular file"
    ):
        index_shard(path, "clip", 0, 1)


def test_long_names_of_other_programs_are_read(tmp_path):
    path = tmp_path / "clip-0000.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(2):
            member = tarfile.TarInfo("ü" * 150 + f"-{number}.jpg")
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    assert index_shard(path, "clip", 0, 1).frames == 2
