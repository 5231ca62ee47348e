"""The store's arithmetic and its refusals; what is written and read back: tests/feature_maps/test_extract.py."""

import re
from pathlib import Path

import pytest
import torch

from fmce.feature_maps.stored import StoredMaps
from fmce.feature_maps.zarr_shards import (
    StoredPart,
    create_store,
    shards_of,
    store_bytes,
    to_float16,
    write_shard,
)

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "fmce.md"


def test_shards_cover_every_map_of_every_part_once():
    shards = shards_of({"train": 1100, "test": 512}, 2)
    assert len(shards) == len({s.name for s in shards}) == 2 * (3 + 1)
    covered = [(s.part, s.phase, i) for s in shards for i in range(s.first, s.stop)]
    assert len(covered) == len(set(covered)) == 2 * (1100 + 512)


def test_the_guides_sizes_are_the_commands_own():
    rows = re.findall(
        r"^\| [\w, -]+ \| ([\d,]+) \| ([\d.]+) GB \| ([\d.]+) GB \| ([\d.]+) GB \| ([\d.]+) GB \|$",
        GUIDE.read_text(encoding="utf-8"),
        re.M,
    )
    assert len(rows) == 3
    for images, *sizes in rows:
        maps = 10 * int(images.replace(",", ""))
        computed = [store_bytes(maps, (c, 7, 7), r) for c in (1024, 2048) for r in (1, 0.29)]
        assert [f"{size / 1e9:.1f}" for size in computed] == sizes


def test_values_beyond_float16_are_refused():
    assert to_float16(torch.tensor([65504.0])).item() == 65504
    with pytest.raises(ValueError, match=r"within ±65504, .*got 7e\+04; .*recompute"):
        to_float16(torch.tensor([70000.0]))


def small_store(folder, shape=(2, 1, 1)):
    create_store(folder, {"train": 100}, 1, shape, {})
    (shard,) = shards_of({"train": 100}, 1)
    write_shard(folder, shard, torch.zeros(100, *shape))
    return StoredPart(folder, "train")


def test_maps_that_are_all_zero_are_written_too(tmp_path):
    part = small_store(tmp_path / "a")
    assert part.read(0, 0, 100).abs().max() == 0  # a file that is not there would be an error


def test_stores_of_unlike_shape_do_not_join(tmp_path):
    parts = [small_store(tmp_path / "a"), small_store(tmp_path / "b", (3, 1, 1))]
    with pytest.raises(ValueError, match="equal shape, got"):
        StoredMaps(parts, torch.device("cpu"))
