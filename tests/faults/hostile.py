"""Inputs made to harm: code named by a config, links out of the folder, files that unpack or nest without end."""

import gzip
import io
import json
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from PIL import Image

from tests.faults import folders
from tests.faults.trial import Ended, fmce, forked, verdict

MEGABYTES, SECONDS = 1024, 30
_NET = "fmce_net/map"
NAMES = (
    *("evil_for_faults:make", "torch.hub:load", "os:abort", "os:system", "subprocess:run"),
    *("builtins:exec", "builtins:eval", "pickle:load", "shutil:rmtree", "torch:load"),
    *(
        "importlib:import_module",
        "runpy:run_path",
        "timm:create_model",
        "torchvision:set_image_backend",
    ),
    *("pathlib:Path", "fcos:make", "hubconf:make"),
)
EVIL = "from pathlib import Path\nPath(__file__).with_name('RAN').touch()\ndef make(**_):\n    return None\n"
COMMANDS: dict[str, list[str]] = {
    "fmcs": ["--epoch", "6"],
    "score": ["--epoch", "6", "--images", "128"],
    "evaluate": [],
    "explain": [],
    "extract": [],
    "train-net": ["--split", "image"],
    "compare": ["--out", "out", "--jobs", "1"],
}
WRITTEN = (
    *("report.html", "phases.json", "evaluation.json", "metrics.jsonl", "DONE.json", ".lock"),
    *("explain", "checkpoints", "maps.zarr", "fmce_net", "figures", ".maps-0006.lock"),
)


def _config(run: Path, section: str, name: str) -> None:
    file = run / "config.yaml"
    values = yaml.safe_load(file.read_text())
    values[section] = (
        {**values[section], "name": name, "layer": "x"}
        if section == "model"
        else {
            **values[section],
            "name": name,
        }
    )
    values["model"]["options"] = {"repo_or_dir": str(run), "source": "local", "model": "make"}
    file.write_text(yaml.safe_dump(values))
    for module in ("evil_for_faults.py", "hubconf.py"):
        (run / module).write_text(EVIL)


def _nested(text: str, depth: int) -> str:
    return text * depth


def _npz(path: Path, shape: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(path, "w") as file:
        for name in ("cams", "images"):
            file.writestr(f"{name}.npy", array)


def _aliases() -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join(rows)


def _change(run: Path, file: str, change: Callable[[dict], None]) -> None:
    """Change a record as someone would who knows that a record without a digest is read."""
    from fmce.digests import read_record

    values = read_record(run / file)
    change(values)
    (run / file).write_text(json.dumps(values))


def _checkpoint(run: Path, epoch: int) -> None:
    source = run / "checkpoints" / "epoch_0006"
    shutil.copytree(source, run / "checkpoints" / f"epoch_{epoch}")
    shutil.rmtree(source)


# A name, the file that a refusal should name, and what is done to a run folder.
BOMBS: tuple[tuple[str, str, Callable[[Path], object]], ...] = (
    ("aliases", "config.yaml", lambda run: (run / "config.yaml").write_text(_aliases())),
    (
        "yaml depth",
        "config.yaml",
        lambda run: (run / "config.yaml").write_text(_nested("[", 10**5)),
    ),
    ("yaml size", "config.yaml", lambda run: (run / "config.yaml").write_text("a: 1\n" * 10**6)),
    (
        "yaml integer",
        "config.yaml",
        lambda run: (run / "config.yaml").write_text("a: " + "9" * 10**5),
    ),
    ("yaml date", "config.yaml", lambda run: (run / "config.yaml").write_text("a: 2020-13-45")),
    (
        "json depth",
        "phases.json",
        lambda run: (run / "phases.json").write_text(_nested("[", 10**5)),
    ),
    (
        "json integer",
        "phases.json",
        lambda run: (run / "phases.json").write_text('{"markers": [' + "9" * 10**5 + "]}"),
    ),
    ("json list", "DONE.json", lambda run: (run / "DONE.json").write_text("[]")),
    ("json number", "phases.json", lambda run: (run / "phases.json").write_text("7")),
    ("json size", "phases.json", lambda run: os.truncate(run / "phases.json", 2**33)),
    ("lines size", "metrics.jsonl", lambda run: os.truncate(run / "metrics.jsonl", 2**33)),
    (
        "npz 27 TiB",
        "explain",
        lambda run: _npz(run / "explain" / "grad_cam.npz", "(30000000000000,)"),
    ),
    (
        "npz images",
        "explain",
        lambda run: _npz(run / "explain" / "grad_cam.npz", "(10000000000, 8, 8)"),
    ),
    ("epoch 10^9", "epoch_", lambda run: _checkpoint(run, 10**9)),
    ("no zip", "explain", lambda run: (run / "explain" / "grad_cam.npz").write_bytes(b"PK\3\4")),
    (
        "net header",
        "fmce_net.safetensors",
        lambda run: (run / _NET / "fmce_net.safetensors").write_bytes(b"\xff" * 64),
    ),
    (
        "markers",
        "phases.json",
        lambda run: _change(run, "phases.json", lambda v: v.update(markers="abc")),
    ),
    (
        "net metrics",
        "metrics.json",
        lambda run: _change(run, "fmce_net/map/metrics.json", lambda v: v.pop("held_out")),
    ),
    (
        "phases fifo",
        "phases.json",
        lambda run: ((run / "phases.json").unlink(), os.mkfifo(run / "phases.json")),
    ),
    (
        "config fifo",
        "config.yaml",
        lambda run: ((run / "config.yaml").unlink(), os.mkfifo(run / "config.yaml")),
    ),
    ("zarr shape", "zarr.json", lambda run: _huge_zarr(run)),
    (
        "zarr depth",
        "zarr.json",
        lambda run: (run / "maps.zarr/epoch_0006/zarr.json").write_text(_nested("[", 10**5)),
    ),
)
READERS: dict[str, list[str]] = {
    "report": [],
    "phases": [],
    **{k: v for k, v in COMMANDS.items() if k not in ("compare", "score")},
}


def _huge_zarr(run: Path) -> None:
    file = run / "maps.zarr" / "epoch_0006" / "train" / "zarr.json"
    values = json.loads(file.read_text())
    values["shape"] = [10**10, *values["shape"][1:]]
    file.write_text(json.dumps(values))


def tar_bombs() -> dict[str, bytes]:
    """Return bytes that a shard may be made of."""
    pax = b"%d size=" % (10**7 + 20) + b"9" * 10**7 + b"\n"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(pax)
    return {
        "gzip": gzip.compress(b"\0" * 2**28),
        "pax": header.tobuf() + pax + b"\0" * 1024,
        "nothing": b"",
        "text": b"no tar " * 1000,
        "device": _tar_of(tarfile.CHRTYPE),
        "link": _tar_of(tarfile.SYMTYPE),
    }


def _tar_of(kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("clip-0000000.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    return buffer.getvalue()


# An EPS that writes a file when a program draws it.
_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(RAN) (w) file closefile showpage\n%%EOF\n"
# The largest images that are decoded: format, mode, and rows of 10,000 pixels.
_LARGEST = (
    *(("PNG", "RGB", 5_000), ("JPEG", "RGB", 5_000), ("JPEG", "CMYK", 5_000), ("GIF", "P", 5_000)),
    *(("BMP", "RGB", 2_500), ("TIFF", "RGB", 2_500), ("WEBP", "RGB", 2_500)),
)


def image_bombs() -> dict[str, Callable[[Path], object]]:
    """Return what writes image files, by a name: as many pixels as are decoded at most, and what is no image."""

    def plain(kind: str, mode: str, rows: int) -> Callable[[Path], object]:
        return lambda path: Image.new(mode, (10_000, rows)).save(path, kind)

    def header_of_178_megapixels(path: Path) -> None:
        Image.new("L", (8, 8)).save(path, "PNG")
        content = bytearray(path.read_bytes())
        content[16:24] = (17_800).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        path.write_bytes(content)

    return {
        **{f"largest {kind} {mode}": plain(kind, mode, rows) for kind, mode, rows in _LARGEST},
        "long": lambda path: Image.new("RGB", (1, 60_000)).save(path, "PNG"),
        "178 megapixels": header_of_178_megapixels,
        "eps": lambda path: path.write_bytes(_EPS),
        "text": lambda path: path.write_text("no image " * 1000),
        "fifo": os.mkfifo,
    }


def tries(folder: Path, keep: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield the name and the column of every hostile input whose name `keep` accepts."""
    home = folder / "hostile"
    home.mkdir(exist_ok=True)
    for name, file, prepare, words in _cases():
        if not keep(name):
            continue
        work, outside = home / "x", home / "outside"
        for path in (work, outside, home / "out"):
            shutil.rmtree(path, ignore_errors=True)
        folders.copy_of_run(folder, work)
        outside.mkdir()
        (outside / "precious").write_text("precious")
        prepare(work)
        ended = fmce([words[0], work, *words[1:]], cwd=home, timeout=SECONDS)
        yield name, _column(ended, work, outside, file)
    for name, content in tar_bombs().items():
        if keep(f"shard {name}"):
            yield f"shard {name}", _shard(home / "shards", content)
    for name, write in image_bombs().items():
        if keep(f"image {name}"):
            yield f"image {name}", _image(home / "images", write)


def _image(folder: Path, write: Callable[[Path], object]) -> str:
    """Read a folder of classes with such an image four times, as a training does."""
    from fmce.data.classification.image_folder import read_image_folder

    shutil.rmtree(folder, ignore_errors=True)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / split / name / "0.png")
    path = folder / "train" / "a" / "1.png"
    write(path)
    for number in (2, 3, 4):
        path.with_name(f"{number}.png").hardlink_to(path)

    def read() -> int:
        os.chdir(folder)
        read_image_folder(folder, 8)
        return 0

    ended = forked(read, SECONDS)
    if ended.megabytes > MEGABYTES or ended.code < 0 or any(folder.rglob("RAN")):
        return "used silently"
    named = f"ValueError: 4 of 6 images cannot be read: {path}" in ended.err
    return "recovered" if ended.code == 0 else "refused and named" if named else "traceback"


def _shard(folder: Path, content: bytes) -> str:
    """Read a shard of such bytes as a training does, and as `fmce frames` does before it keeps one."""
    from fmce.data.frames.shards import CHUNK, Shard, ShardFolder, ShardReader, index_shard

    folder.mkdir(exist_ok=True)
    path = folder / "clip-0000.tar"
    path.write_bytes(content)
    shard = Shard(path.name, "clip", 0, 1, CHUNK, (0, len(content) or 1))

    def read() -> int:
        found = ShardReader(ShardFolder(str(folder), (shard,))).fetch(shard, 0)
        assert found == [b""] * CHUNK
        index_shard(path, "clip", 0, 1)
        return 0

    ended = forked(read, SECONDS)
    if ended.megabytes > MEGABYTES or ended.code < 0:
        return "used silently"
    # A ValueError that names the tar is what the command turns into its line.
    named = f"ValueError: {path}" in ended.err
    return "refused and named" if named else "traceback" if ended.code else "used silently"


def _column(ended: Ended, work: Path, outside: Path, file: str) -> str:
    """Return the column; harm of any kind counts as used silently."""
    ran = any(work.rglob("RAN"))
    kept = [p.name for p in outside.iterdir()] == ["precious"]
    if ran or not kept or (outside / "precious").read_text() != "precious":
        return "used silently"
    if ended.megabytes > MEGABYTES:
        return "used silently"
    # What a command does not read does it no harm.
    return verdict(ended, [file], as_before=True)


def _cases() -> Iterator[tuple[str, str, Callable[[Path], object], list[str]]]:
    for section in ("model", "data"):
        for name in NAMES:
            for command, words in COMMANDS.items():
                yield (
                    f"code {section} {name} {command}",
                    "config.yaml",
                    lambda run, s=section, n=name: _config(run, s, n),
                    [command, *words],
                )
    for written in WRITTEN:
        for command, words in READERS.items():
            yield (
                f"link {written} {command}",
                Path(written).name,
                lambda run, w=written: _link(run / w),
                [command, *words],
            )
    for bomb, file, prepare in BOMBS:
        for command, words in READERS.items():
            yield f"bomb {bomb} {command}", file, prepare, [command, *words]


def _link(path: Path) -> None:
    outside = path.parents[0].parent / "outside"
    folder = path.suffix in ("", ".zarr") and not path.name.startswith(".")
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(outside if folder else outside / "precious")
