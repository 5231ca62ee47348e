"""Pack what a GPU machine without a network lacks into an ignored folder, in parts that a call can carry.

    python -m benchmarks.gpu.pack [--data cifar10 mnist …] [--part-mb 51 62] [--wheels tyro …]
                                  [--python 3.12] [--state DIR] [--to .gpu]

Reads data sets as they lie in $FMCE_DATA: `NAME.npz` becomes sheets of lossless WebP, the files of MNIST and
Fashion-MNIST are compressed, a folder is taken as it is. `--state` takes the packed state of an earlier
call's output along.
"""

import argparse
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.gpu.state import MANIFEST, as_sheets
from fmce.engine.runtime import cores

ROOT = Path(__file__).resolve().parents[2]
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
WHEELS = (
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    *("tyro", "docstring-parser", "typeguard", "simplejpeg"),
)
# Wanted by one of the tests alone.
TEST_WHEELS = ("zarr", "numcodecs", "donfig", "google-crc32c", "faster-coco-eval")
_PLATFORMS = ("2_28", "2_27", "2_17", "2_24", "2_26", "2_34")


def main() -> None:
    """Pack what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", nargs="*", default=["cifar10", "mnist"], help="%(default)s")
    add("--part-mb", type=float, nargs="+", default=[51, 62],
        help="most of each part, in MB; the last holds for all that follow (%(default)s)")  # fmt: skip
    add("--wheels", nargs="*", default=list(WHEELS), help="packages that the machine lacks")
    add("--test-wheels", nargs="*", default=list(TEST_WHEELS), help="those only tests need")
    add("--python", default="3.12", help="version there (%(default)s)")
    add("--state", type=Path, help="output folder of an earlier call")
    add("--to", type=Path, default=ROOT / ".gpu")
    options = parser.parse_args()
    shutil.rmtree(options.to, ignore_errors=True)
    if options.data:
        data = Path(os.environ.get("FMCE_DATA", "data"))
        pack_data(data, options.data, options.to, [int(mb * 1e6) for mb in options.part_mb])
    for names, folder in ((options.wheels, "wheels"), (options.test_wheels, "wheels-tests")):
        if names:
            download(names, options.python, options.to / folder)
    if options.state:
        chunks = sorted(options.state.glob("state.[0-9]"))
        (options.to / "state").mkdir(parents=True)
        for chunk in chunks:
            shutil.copyfile(chunk, options.to / "state" / chunk.name)
    for folder in sorted(p for p in options.to.iterdir() if p.is_dir()):
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        print(f"{folder}: {size / 1e6:.1f} MB")


def pack_data(data: Path, names: list[str], to: Path, limits: list[int]) -> None:
    """Write the sets' files into folders `part1`, `part2`, … of at most so many bytes each."""
    part, room = 1, limits[0]
    for name in names:
        files: list[str] = []
        for file, content in packed_files(data, name):
            if len(content) > room:
                part, room = part + 1, limits[min(part, len(limits) - 1)]
            room -= len(content)
            files.append(file)
            target = to / f"part{part}" / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        (to / f"part{part}" / name / MANIFEST).write_text(json.dumps(files))


def packed_files(data: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file of a packed set."""
    if (data / f"{name}.npz").exists():
        arrays = dict(np.load(data / f"{name}.npz"))
        labels = io.BytesIO()
        np.savez_compressed(labels, **{k: v for k, v in arrays.items() if not k.startswith("x_")})
        yield "labels.npz", labels.getvalue()
        with ProcessPoolExecutor(cores()) as workers:
            for part in ("train", "test"):
                sheets = workers.map(as_webp, as_sheets(arrays[f"x_{part}"]))
                yield from ((f"{part}_{i:02d}.webp", sheet) for i, sheet in enumerate(sheets))
        return
    folder = data / TORCHVISION[name] / "raw" if name in TORCHVISION else data / name
    if not folder.is_dir():
        raise SystemExit(f"pack: expected {data / name}.npz or {folder}; FMCE_DATA says where")
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        place = str(file.relative_to(data))
        if name in TORCHVISION:
            yield f"{place}.xz", lzma.compress(file.read_bytes())
        else:
            yield place, file.read_bytes()


def as_webp(sheet: Any) -> bytes:
    """Return a sheet as lossless WebP."""
    content = io.BytesIO()
    image: Image.Image = sheet
    image.save(content, "WEBP", lossless=True, quality=100, method=5)
    return content.getvalue()


def download(names: list[str], python: str, to: Path) -> None:
    """Download wheels for Linux on x86-64, of the versions installed here, without what they need."""
    from importlib.metadata import version

    platforms = [word for p in _PLATFORMS for word in ("--platform", f"manylinux_{p}_x86_64")]
    platforms += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64"]
    wanted = [f"{name}=={version(name)}" for name in names]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--python-version", python, "--implementation", "cp", *platforms, "-d", str(to), *wanted],
        check=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
