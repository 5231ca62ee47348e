"""Functions that read what others wrote, on random and mutated inputs: every exception must be a documented one."""

import json
import math
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path

Target = Callable[[random.Random, Path], None]
DOCUMENTED = (ValueError, OSError)


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
    def target(draw: random.Random, folder: Path) -> None:
        path = folder / name
        path.write_bytes(_mutated(content, draw))
        read(path)

    return target


def _curve(path: Path) -> None:
    from fmce.maturity.phases import phases

    phases(path, {"num_phases": 3}, figure=path.with_suffix(".png"))


def _yaml(path: Path) -> None:
    from fmce.config.io import from_dict, read_yaml
    from fmce.config.run import RunConfig

    from_dict(RunConfig, read_yaml(path))


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
        "labels.json": _file("labels.json", json.dumps(labels).encode(), _scalabel),
    }
    return found


# Inputs of a target, as a share of all: reading a curve draws a figure now and then.
SHARES = {"curve.csv": 0.3, "curve.jsonl": 0.3}


def tries(folder: Path, inputs: int, keep: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield a row for each block of inputs of a target whose name `keep` accepts: refused, or a traceback."""
    chosen = targets(folder)
    block = 500
    for name, target in chosen.items():
        count = round(inputs / len(chosen) * SHARES.get(name, 1.2))
        for start in range(0, max(count, 1), block):
            label = f"{name} {start}"
            if not keep(label):
                continue
            for number in range(start, min(start + block, max(count, 1))):
                yield label, _one(target, random.Random(f"{name} {number}"), folder)


def _one(target: Target, draw: random.Random, folder: Path) -> str:
    try:
        target(draw, folder)
    except DOCUMENTED as error:
        return "refused and named" if str(error) else "refused unnamed"
    except Exception:
        return "traceback"
    return "recovered"  # a change that left it readable
