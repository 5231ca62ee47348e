"""The store's arithmetic and its refusals; what is written and read back: tests/feature_maps/test_extract.py."""

import re
from pathlib import Path

import pytest
import torch

from fmce.feature_maps.stored import StoredMaps
from fmce.feature_maps.zarr_shards import (
    StoredPart,
    chunk_ranges,
    marker_attributes,
    marker_folder,
    store_bytes,
    stored_markers,
    to_float16,
    write_marker,
)

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "fmce.md"


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


def small_store(store, shape=(2, 1, 1)):
    write_marker(marker_folder(store, 7), {"train": (100, [torch.zeros(100, *shape)])}, {})
    return StoredPart([marker_folder(store, 7)], "train")


def test_shards_are_written_in_order_and_read_back(tmp_path):
    maps = torch.arange(1100.0).view(-1, 1, 1, 1)
    folder = marker_folder(tmp_path, 7)
    write_marker(
        folder, {"train": (1100, maps.split(512)), "test": (3, [maps[:3]])}, {"layer": "x"}
    )
    part = StoredPart([folder], "train")
    read = torch.cat([part.read(0, a, b) for a, b in chunk_ranges(1100, 512)])
    assert (part.num_phases, part.num_images, part.map_shape) == (1, 1100, (1, 1, 1))
    assert torch.equal(read, maps.half())
    assert stored_markers(tmp_path) == [7]
    assert marker_attributes(marker_folder(tmp_path, 7)) == {"layer": "x"}


def test_an_interrupted_write_leaves_no_marker(tmp_path):
    def shards():
        yield torch.zeros(512, 1, 1, 1)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        write_marker(marker_folder(tmp_path, 7), {"train": (600, shards())}, {})
    assert stored_markers(tmp_path) == []


def test_maps_that_are_all_zero_are_written_too(tmp_path):
    part = small_store(tmp_path / "a")
    assert part.read(0, 0, 100).abs().max() == 0  # a file that is not there would be an error


def test_stores_of_unlike_shape_do_not_join(tmp_path):
    parts = [small_store(tmp_path / "a"), small_store(tmp_path / "b", (3, 1, 1))]
    with pytest.raises(ValueError, match=r"equal \(phases, images, map shape\), got"):
        StoredMaps(parts, torch.device("cpu"))
