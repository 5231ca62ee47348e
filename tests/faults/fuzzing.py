"""Functions that read what others wrote, on random and mutated inputs: every exception must be a documented one."""

import json
import logging
import math
import random
import string
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Target = Callable[[random.Random, Path], None]
DOCUMENTED = (ValueError, OSError)
LOGS = Path(__file__).resolve().parents[1] / "convergence" / "logs"


class UnnamedError(Exception):
    """A documented error whose message names neither the file nor its folder."""


def _numbers(draw: random.Random) -> list[float]:
    kinds = (
        lambda: draw.uniform(0, 3),
        lambda: math.exp(draw.uniform(-700, 700)),
        lambda: draw.choice((0.0, math.nan, math.inf, -1.0, 1e308, 5e-324)),
    )
    kind = draw.choice(kinds)
    return [
        kind() if draw.random() < 0.9 else draw.uniform(0, 2) for _ in range(draw.randrange(60))
    ]


def _mutated(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.randrange(1, 8)):
        place = draw.randrange(len(data) + 1)
        match draw.randrange(5):
            case 0:
                data[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                del data[place : place + draw.randrange(1, 20)]
            case 2:
                data[place:place] = data[draw.randrange(len(data) + 1) :][: draw.randrange(30)]
            case 3:
                data[place:place] = draw.choice(
                    (b"[", b"{", b'"', b"9" * 400, b"\0", b"\xff", b"-", b"e999")
                )
            case _:
                data = data[:place]
    return bytes(data)


def _phases(draw: random.Random, _folder: Path) -> None:
    from fmce.convergence.phases import PhaseConfig, find_phases

    config = PhaseConfig(num_phases=draw.randrange(2, 8), threshold=draw.choice((1e-3, 0.1, 1e-9)))
    find_phases(_numbers(draw), config)


def _phases_json(draw: random.Random, _folder: Path) -> None:
    from fmce.convergence.phases import PhaseConfig, Phases, find_phases

    text = find_phases(
        [2.3, *[0.5] * 5, *[0.1] * 20], PhaseConfig(num_phases=3, threshold=1e-2)
    ).to_json()
    Phases.from_json(_mutated(text.encode(), draw).decode(errors="replace"))


def _file(name: str, content: bytes, read: Callable[[Path], object]) -> Target:
    return _one_of({name: content}, read)


def _one_of(files: dict[str, bytes], read: Callable[[Path], object]) -> Target:
    """Return a target that changes one of some files and reads it; the others stay as they are."""

    def target(draw: random.Random, folder: Path) -> None:
        name = draw.choice(sorted(files))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_mutated(files[name], draw))
        try:
            read(path)
        except DOCUMENTED as error:
            # Files of one set may be named by their stem.
            if not any(part in str(error) for part in (str(path.parent), f"{path.stem}:")):
                raise UnnamedError(str(error)) from error
            raise
        finally:
            path.write_bytes(files[name])

    return target


def _events_of(content: list[bytes]) -> Target:
    """Return a target of an event file: bytes changed anywhere, or inside an event whose checksums are right."""

    def target(draw: random.Random, folder: Path) -> None:
        events = list(content)
        if draw.random() < 0.7:
            place = draw.randrange(len(events))
            events[place] = _mutated(events[place], draw)
            whole = b"".join(map(_framed, events))
        else:
            whole = _mutated(b"".join(map(_framed, events)), draw)
        path = folder / "events" / "events.out.tfevents.1.fuzzed"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(whole)
        _curve_table(path)

    return target


def _framed(event: bytes) -> bytes:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    length = struct.pack("<Q", len(event))
    sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, event))
    return length + next(sums) + event + next(sums)


def _curve(path: Path) -> None:
    from fmce.maturity.phases import phases

    phases(path, {"num_phases": 3}, figure=path.with_suffix(".png"))


def _curve_table(path: Path) -> None:
    """Read a log as `fmce phases` does, without a figure."""
    from fmce.maturity.phases import phases

    phases(path, {"num_phases": 3})


def _coco(path: Path) -> None:
    from fmce.data.detection.formats import coco_detection

    coco_detection(path.parent / "images", path)


def _kitti(path: Path) -> None:
    from fmce.data.detection.formats import kitti_detection

    kitti_detection(path.parents[1], "train")


def _voc(path: Path) -> None:
    from fmce.data.detection.formats import voc_detection

    voc_detection(path.parents[1], "train")


def _yolo(path: Path) -> None:
    from fmce.data.detection.yolo import yolo_detection

    root = path.parent if path.name == "data.yaml" else path.parents[2]
    yolo_detection(root, "train")


def _masks(path: Path) -> None:
    from fmce.data.segmentation import folder_pair

    files = folder_pair(path.parents[1] / "images", path.parent, ("a", "b"))
    files.tolerating(0.0)[0]


def _image(path: Path) -> None:
    from fmce.data.detection.files import DetectionFiles
    from fmce.data.detection.formats import coco_detection

    found: DetectionFiles = coco_detection(path.parent, path.parents[1] / "labels.json")
    found.tolerating(0.0)[[p.name for p in found.image_paths].index(path.name)]


def _stems(path: Path) -> None:
    from fmce.data.image_files import read_stems

    read_stems(path)


def _weights(path: Path) -> None:
    from fmce.runs.weights import read_state_dict

    read_state_dict(path)


def _grams(path: Path) -> None:
    from fmce.recorder.grams import load_grams

    load_grams(path.parents[1], 3)


def _run_lines(path: Path) -> None:
    from fmce.runs.log import read_metrics

    read_metrics(path.parent)


def _clocks(path: Path) -> None:
    from fmce.cli.watch import lines_of, view_of
    from fmce.recorder.clocks import module_table

    module_table(path.parent)
    lines_of(view_of(path.parent))


def _yaml(path: Path) -> None:
    from fmce.config.run import run_config

    run_config(path.parent)


def _record(path: Path) -> None:
    from fmce.digests import read_record

    read_record(path, ("a",))


def _shards(path: Path) -> None:
    from fmce.data.frames.shards import open_shards

    open_shards(str(path.parent))


def _shard(path: Path) -> None:
    from fmce.data.frames.shards import index_shard

    index_shard(path, "clip", 0, 1)


def _net(path: Path) -> None:
    from fmce.models.fmce_net import FMCENet

    FMCENet.load(path)


def _scalabel(path: Path) -> None:
    from fmce.data.detection.scalabel import read_scalabel

    read_scalabel(path)


def targets(folder: Path) -> dict[str, Target]:
    """Return what is fuzzed, by name; seeds that need files are made in `folder`."""
    from fmce.config.io import to_yaml
    from fmce.config.run import RunConfig
    from fmce.data.frames.shards import index_shard, write_index, write_shard
    from fmce.digests import write_record
    from fmce.models.fmce_net import FMCENet

    folder.mkdir(parents=True, exist_ok=True)
    losses = [2.0 * 0.8**i for i in range(40)]
    csv = "epoch,train_loss,val_loss,lr\n" + "".join(
        f"{i},{v},{v},0.1\n" for i, v in enumerate(losses)
    )
    rows = "".join(json.dumps({"epoch": i, "loss": v}) + "\n" for i, v in enumerate(losses))
    write_record(folder / "record.json", {"a": [1, 2.5], "b": {"c": string.ascii_letters}})
    write_shard(folder / "clip-0000.tar", [(f"clip-{i:07d}", bytes([i]) * 300) for i in range(3)])
    (folder / "shards").mkdir(exist_ok=True)
    write_index(folder / "shards", [index_shard(folder / "clip-0000.tar", "clip", 0, 1)], {})
    FMCENet((4, 2, 2), 3).save(folder / "net.safetensors")
    labels = [
        {
            "name": f"{i}.jpg",
            "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 5, "y2": 9}}],
        }
        for i in range(3)
    ]
    found: dict[str, Target] = {
        "find_phases": _phases,
        "phases.json": _phases_json,
        "curve.csv": _file("curve.csv", csv.encode(), _curve),
        "curve.jsonl": _file("curve.jsonl", rows.encode(), _curve),
        "config.yaml": _file("config.yaml", to_yaml(RunConfig()).encode(), _yaml),
        "record.json": _file("a.json", (folder / "record.json").read_bytes(), _record),
        "shards.json": _file(
            "shards/shards.json", (folder / "shards/shards.json").read_bytes(), _shards
        ),
        "shard.tar": _file("a.tar", (folder / "clip-0000.tar").read_bytes(), _shard),
        "fmce_net.safetensors": _file(
            "b.safetensors", (folder / "net.safetensors").read_bytes(), _net
        ),
        "scalabel.json": _file("labels.json", json.dumps(labels).encode(), _scalabel),
        **_other_logs(),
        **_annotations(folder),
        **_tensors(folder),
        **_recorded(folder),
    }
    return found


def _other_logs() -> dict[str, Target]:
    """Return the logs of other programs that the readers' tests have, and TensorBoard's event files."""
    from tensorboard.compat.proto.event_pb2 import Event

    events = [Event(wall_time=1.0, file_version="brain.Event:2")]
    for step in range(12):
        event = Event(wall_time=2.0 + step, step=step)
        for tag, value in (("train/loss", 2.0 * 0.8**step), ("epoch", step), ("lr", 0.1)):
            event.summary.value.add(tag=tag, simple_value=value)
        events.append(event)
    logs = {f"logs/{file.name}": file.read_bytes() for file in sorted(LOGS.iterdir())}
    return {
        "logs of other programs": _one_of(logs, _curve_table),
        "event file": _events_of([event.SerializeToString() for event in events]),
    }


def _annotations(folder: Path) -> dict[str, Target]:
    """Return label files of every format beside the images that they need."""
    from PIL import Image

    numbers = range(1, 5)
    places = ("coco/images", "kitti/image_2", "voc/JPEGImages", "yolo/images/train", "seg/images")
    for place in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            Image.effect_noise((32, 24), 50).convert("RGB").save(folder / place / f"{number}.jpg")
    (folder / "seg/masks").mkdir(exist_ok=True)
    for number in numbers:
        Image.new("L", (32, 24), number % 2).save(folder / "seg/masks" / f"{number}.png")
    coco = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 32, "height": 24} for n in numbers],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 8, 9], "iscrowd": 0}
            for n in numbers
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}],
    }
    (folder / "coco/labels.json").write_text(json.dumps(coco))
    kitti = b"Car 0.00 0 -1.57 2.0 3.0 12.0 14.0 1.5 1.6 3.7 1.0 1.6 9.0 -1.5\n"
    voc = (
        b"<annotation><size><width>32</width><height>24</height></size><object><name>car</name>"
        b"<difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>14</ymax>"
        b"</bndbox></object></annotation>"
    )
    yolo, about = b"0 0.5 0.5 0.25 0.25\n1 0.2 0.3 0.1 0.1\n", b"names: {0: car, 1: person}\n"
    texts: dict[str, dict[str, bytes]] = {
        "kitti": {f"kitti/label_2/{n}.txt": kitti * n for n in numbers},
        "voc": {f"voc/Annotations/{n}.xml": voc for n in numbers},
        "yolo": {"yolo/data.yaml": about} | {f"yolo/labels/train/{n}.txt": yolo for n in numbers},
    }
    for files in texts.values():
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    (folder / "voc/ImageSets/Main").mkdir(parents=True, exist_ok=True)
    (folder / "voc/ImageSets/Main/train.txt").write_text("".join(f"{n}\n" for n in numbers))
    masks = {f"seg/masks/{n}.png": (folder / f"seg/masks/{n}.png").read_bytes() for n in numbers}
    images = {f"coco/images/{n}.jpg": (folder / f"coco/images/{n}.jpg").read_bytes() for n in (1,)}
    return {
        "coco.json": _file("coco/labels.json", json.dumps(coco).encode(), _coco),
        "kitti.txt": _one_of(texts["kitti"], _kitti),
        "voc.xml": _one_of(texts["voc"], _voc),
        "yolo.txt": _one_of(texts["yolo"], _yolo),
        "mask.png": _one_of(masks, _masks),
        "image.jpg": _one_of(images, _image),
        "exclude.txt": _file("stems.txt", b"0001.jpg\n# none\nclip-2\n", _stems),
    }


def _tensors(folder: Path) -> dict[str, Target]:
    """Return weights in both formats, and an epoch's Gram triangles."""
    import torch
    from safetensors.torch import save

    from fmce.recorder.grams import EpochGrams, save_grams

    weights = {"0.weight": torch.ones(4, 3), "0.bias": torch.zeros(4)}
    torch.save({"state_dict": weights}, folder / "seed.pth")
    (folder / "grammed").mkdir(exist_ok=True)
    grams = EpochGrams({"0": np.ones(28, np.float16)}, {"0": np.ones(16)})
    save_grams(folder / "grammed", 3, grams)
    name = "grammed/grams/epoch_0003.safetensors"
    return {
        "weights.pth": _file("weights.pth", (folder / "seed.pth").read_bytes(), _weights),
        "weights.safetensors": _file("w.safetensors", save(weights), _weights),
        "grams": _file(name, (folder / name).read_bytes(), _grams),
    }


def _recorded(folder: Path) -> dict[str, Target]:
    """Return metrics lines of a run, and of a recorded one with its modules; neither noted a digest yet."""
    from fmce.config.io import to_yaml
    from fmce.config.run import RunConfig

    output = {"drift": 0.1, "rank": 3.0}
    module = {"parameters": 9, "norm": 1.0, "moved": 0.1, "outputs": {"0": output}}
    lines = {"plain": "", "modules": ""}
    for epoch in range(1, 13):
        row = {"epoch": epoch, "loss": 2 * 0.8**epoch, "learning_rate": 0.1, "time_seconds": 1.0}
        lines["plain"] += json.dumps(row) + "\n"
        lines["modules"] += json.dumps({**row, "modules": {"0": module}}) + "\n"
    for name in lines:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.yaml").write_text(to_yaml(RunConfig()))
    return {
        "metrics.jsonl": _file("plain/metrics.jsonl", lines["plain"].encode(), _run_lines),
        "modules.jsonl": _file("modules/metrics.jsonl", lines["modules"].encode(), _clocks),
    }


# Inputs of a target for one of another: these draw a figure each time, or read large files.
SHARES = {"curve.csv": 0.1, "curve.jsonl": 0.1, "logs of other programs": 0.5}


def tries(folder: Path, inputs: int, keep: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield a row for each block of inputs of a target whose name `keep` accepts: refused, or a traceback."""
    chosen = targets(folder)
    logging.getLogger("fmce").setLevel(logging.CRITICAL)  # a warning for each input is no news
    block = 500
    shares = {name: SHARES.get(name, 1.0) for name in chosen}
    for name, target in chosen.items():
        count = math.ceil(inputs * shares[name] / sum(shares.values()))
        for start in range(0, max(count, 1), block):
            label = f"{name} {start}"
            if not keep(label):
                continue
            for number in range(start, min(start + block, max(count, 1))):
                yield label, _one(target, random.Random(f"{name} {number}"), folder)


def _one(target: Target, draw: random.Random, folder: Path) -> str:
    try:
        target(draw, folder)
    except UnnamedError:
        return "refused unnamed"
    except DOCUMENTED as error:
        return "refused and named" if str(error) else "refused unnamed"
    except Exception:
        return "traceback"
    return "recovered"  # a change that left it readable
