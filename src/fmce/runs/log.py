"""Bookkeeping of a run folder: its writer, its config, its metrics lines, its end.

`metrics.jsonl` always agrees with the checkpoints: a line is written after its checkpoint, and a
resume rebuilds the lines from the checkpoints' `meta.json`.
"""

import itertools
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fmce.console.log import logger
from fmce.digests import (
    check_regular,
    digest_of,
    read_record_or_none,
    read_sealed,
    seal,
    write_record,
)
from fmce.files import (
    append_json_line,
    read_json_lines,
    reading,
    refuse_links_out,
    write_json_lines,
    write_text,
)
from fmce.runs.lock import locked

if TYPE_CHECKING:  # torch, which `fmce phases` does without
    from fmce.convergence.phases import PhaseConfig, Phases
    from fmce.convergence.verdict import Verdict
    from fmce.engine.distributed.ranks import Ranks

_PACKAGES = (
    "fmce",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scikit-learn",
    "captum",
    "safetensors",
)


@contextmanager
def lock_run(
    folder: Path,
    config_yaml: str,
    *,
    defaults: Mapping[str, Any] | None = None,
    ranks: "Ranks | None" = None,
    before_training: Collection[str] = (),
) -> Iterator[None]:
    """Own a run folder while writing to it: make it, or resume in it with the same config.

    Of several ranks, the first owns it for all; the others leave when it has written everything.

    Args:
        folder: The run folder.
        config_yaml: The complete config as text; must mean the same as the folder's own, if there is one.
        defaults: Meaning of the fields that a config of an older version does not name, as nested dicts.
        ranks: The processes that train together.
        before_training: Names of files that a start writes before anything is trained. A folder that holds
            nothing else, at any depth, is taken over by another config; without names it never is.

    Raises:
        FileExistsError: If the folder holds another config, or files that do not belong to a run.
        PermissionError: If the folder cannot be written to.
        BlockingIOError: If another process trains in it.
        ValueError: If a folder in it is a link to one elsewhere.
    """
    with ExitStack() as held:
        if ranks is None:
            _own(folder, config_yaml, defaults or {}, held, before_training)
            yield
        else:
            ranks.on_rank_zero(
                lambda: _own(folder, config_yaml, defaults or {}, held, before_training)
            )
            yield
            ranks.barrier()


def _own(
    folder: Path,
    config_yaml: str,
    defaults: Mapping[str, Any],
    held: ExitStack,
    before_training: Collection[str],
) -> None:
    """Lock the folder until `held` is left, and claim it for the config."""
    busy = f"another process is training in {folder}; wait for it or choose another folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(folder / ".lock", busy))
    except BlockingIOError:
        raise
    except OSError as error:
        named = f" ({error.filename})" if error.filename else ""
        raise type(error)(
            f"cannot write to the run folder {folder}: {error.strerror}{named}"
        ) from error
    refuse_links_out(folder, "delete the link, or move the folder itself to where it leads")
    path = folder / "config.yaml"
    if path.exists():
        difference = _difference(read_sealed(path), config_yaml, defaults)
        if not difference:
            _set_damaged_aside(folder)
            return
        if not _forget_start(folder, before_training):
            raise FileExistsError(
                f"{path} is the config of another run ({difference}); "
                "repeat the command that made it, choose another folder, or delete this one to start anew"
            )
    # versions.json alone is what a kill between the two writes below leaves.
    strangers = [p.name for p in folder.iterdir() if p.name != "versions.json" and p.name[0] != "."]
    if strangers:
        raise FileExistsError(
            f"{path} is missing, but {folder} holds {strangers[0]!r}; choose an empty or new folder, or put the config "
            "of the run there back"
        )
    write_record(folder / "versions.json", environment())
    write_text(path, seal(config_yaml))


def _set_damaged_aside(folder: Path) -> None:
    """Rename damaged records, and with them the mark of the end: the command that owns the folder makes them again."""
    for file in sorted(folder.glob("*.json")):
        try:
            read_record_or_none(file)
        except ValueError as error:
            logger.warning("%s; it is renamed, and made again where this command can", error)
            os.replace(file, file.with_name(f"{file.name}.damaged"))
            (folder / "DONE.json").unlink(missing_ok=True)


def _forget_start(folder: Path, names: Collection[str]) -> bool:
    """Remove what a start left that trained nothing; return False, and remove nothing, where there is more."""
    start = {"config.yaml", "versions.json", *names}
    places = [p.relative_to(folder) for p in folder.rglob("*") if not p.is_dir()]
    # What begins with a dot is a lock, or was being written when a process was killed.
    seen = [p for p in places if not any(part.startswith(".") for part in p.parts)]
    if not names or any(p.name not in start for p in seen):
        return False
    for path in folder.iterdir():
        if not path.name.startswith("."):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return True


def _difference(before: str, now: str, defaults: Mapping[str, Any]) -> str:
    """Describe up to three fields that differ; return nothing where both texts mean the same."""
    try:
        old, new = yaml.safe_load(before), yaml.safe_load(now)
    except yaml.YAMLError:
        old = None
    if not isinstance(old, dict):
        return f"it begins {before[:40]!r}, which is no config"
    there, here = dict(_fields(defaults)) | dict(_fields(old)), dict(_fields(new))
    names = [n for n in {**here, **there} if (n in there, there.get(n)) != (n in here, here.get(n))]
    both = [(n, there.get(n, "nothing"), here.get(n, "nothing")) for n in names[:3]]
    shown = "; ".join(f"{n}: {old} in the folder, {new} now" for n, old, new in both)
    return shown + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _fields(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field with its dotted name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def environment() -> dict[str, Any]:
    """Return versions and machine, to be recorded beside results."""
    import torch

    versions: dict[str, str | None] = dict.fromkeys(_PACKAGES)
    for name in versions:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)

    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **versions,
    }


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics lines, one dict per epoch; empty where none were written.

    A last line that a kill cut short is left out. Lines that differ from what the checkpoints or the end of the
    run noted are restored from the checkpoints.

    Raises:
        ValueError: If they are damaged and cannot be restored.
    """
    file, done = folder / "metrics.jsonl", None
    with suppress(ValueError):
        done = read_record_or_none(folder / "DONE.json")
    if done is not None and "metrics_sha256" not in done:  # of a version that noted none
        return _lines(file)
    if done is not None and digest_of(rows := _lines(file)) == done["metrics_sha256"]:
        return rows
    from fmce.runs.checkpoint import checkpoint_notes  # torch

    checkpoints = folder / "checkpoints"
    # Noted first, read second: a training may add to both meanwhile.
    newest = checkpoint_notes(checkpoints, newest=2)
    rows = _lines(file)
    if done is None and _as_noted(rows, newest):
        return rows
    notes = checkpoint_notes(checkpoints)
    restored = _restored(folder, max(notes, default=0), notes)
    if done is not None and digest_of(restored) != done["metrics_sha256"]:
        raise ValueError(_lost(file))
    logger.warning("%s is damaged; its lines are taken from the checkpoints", file)
    return restored


def _lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines up to the first that is no object with an epoch."""
    check_regular(file)
    rows = read_json_lines(file, until_damage=True)
    good = (isinstance(r, dict) and type(r.get("epoch")) is int for r in rows)
    return list(itertools.compress(rows, itertools.takewhile(bool, good)))


def _as_noted(rows: Sequence[Mapping[str, Any]], notes: Mapping[int, Mapping[str, Any]]) -> bool:
    """Return whether lines are those that checkpoints note; the newest one's own may be missing still."""
    digests = {e: n["metrics_sha256"] for e, n in notes.items() if "metrics_sha256" in n}
    if len(rows) < max(digests, default=0) - 1:
        return False
    return all(digest_of(rows[:e]) == digest for e, digest in digests.items() if e <= len(rows))


def task_loss(row: Mapping[str, Any]) -> float:
    """Return the task's own loss of a metrics line, which with RAL is only a part of the loss; NaN for none."""
    loss = row.get("task_loss", row["loss"])
    return math.nan if loss is None else float(loss)


def known_rates(rows: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Return the learning rate of each metrics line; None where one is not known or all are 0."""
    rates = [row.get("learning_rate") for row in rows]
    known = [float(rate) for rate in rates if rate is not None]
    return known if len(known) == len(rows) and any(known) else None


def judge_metrics(rows: Sequence[Mapping[str, Any]], config: "PhaseConfig") -> "Verdict":
    """Return the verdict on the curve of one or more metrics lines; the threshold of `config` counts as rest."""
    from fmce.convergence.verdict import judge_curve

    found = [row.get("validation_loss") for row in rows]
    validation = [math.nan if value is None else value for value in found]
    return judge_curve(
        [task_loss(row) for row in rows],
        known_rates(rows),
        None if all(map(math.isnan, validation)) else validation,
        None if config.relative_threshold is not None else config.threshold,
    )


def append_metrics(folder: Path, row: Mapping[str, Any]) -> None:
    """Add an epoch's metrics line, flushed to disk: its checkpoint may be deleted before the training's end."""
    append_json_line(folder / "metrics.jsonl", row)


def rewrite_metrics(
    folder: Path, up_to: int, notes: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Make the metrics lines end with the checkpoint that training resumes from, 0 without one.

    A kill may have come between checkpoint and line, or in the middle of a line. `notes` holds what each checkpoint
    says of its epoch: its `metrics`, and `metrics_sha256` of the lines to there.

    Raises:
        ValueError: If an epoch up to there has neither line nor checkpoint, or its line is not what was noted.
    """
    rows = _restored(folder, up_to, notes)
    write_json_lines(folder / "metrics.jsonl", rows)
    return rows


def _restored(
    folder: Path, up_to: int, notes: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the lines up to an epoch, from the checkpoints where they have them."""
    file = folder / "metrics.jsonl"
    known = {row.get("epoch"): row for row in _lines(file)}
    known |= {epoch: dict(note["metrics"]) for epoch, note in notes.items() if "metrics" in note}
    missing = [epoch for epoch in range(1, min(up_to, len(known) + 1) + 1) if epoch not in known]
    if missing:
        raise ValueError(
            f"{file} lacks the lines of epochs {missing} and there is no checkpoint to restore them from; "
            "train again in another folder"
        )
    rows = [known[epoch] for epoch in range(1, up_to + 1)]
    digest = notes.get(up_to, {}).get("metrics_sha256")
    if digest not in (None, digest_of(rows)):
        raise ValueError(_lost(file))
    return rows


def _lost(file: Path) -> str:
    return (
        f"{file} is damaged: its lines are not those that were written, and there are no checkpoints to restore "
        "them from; train again in another folder"
    )


def read_phases(folder: Path) -> "Phases":
    """Return the phases of a run folder.

    Raises:
        FileNotFoundError: If none were found yet.
        ValueError: If the file is damaged.
    """
    from fmce.convergence.phases import Phases

    remedy = f"run: fmce phases {folder}"
    record = read_record_or_none(folder / "phases.json", remedy)
    if record is None and read_done(folder) is None:
        raise FileNotFoundError(
            f"the training in {folder} has not finished, so its phases are unknown; rerun its fmce train "
            "command to resume it first"
        )
    if record is None:
        raise FileNotFoundError(f"{folder} has no phases.json; {remedy}")
    with reading(folder / "phases.json", "phases", remedy):
        return Phases.from_json(json.dumps(record))


def mark_done(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write DONE.json, the last file of a finished run."""
    lines = read_metrics(folder)
    noted = {"metrics_sha256": digest_of(lines)} if lines else {}
    write_record(folder / "DONE.json", {**summary, **noted})


def read_done(folder: Path) -> dict[str, Any] | None:
    """Return a finished run's summary; None before the end.

    Raises:
        ValueError: If it is damaged.
    """
    summary = read_record_or_none(
        folder / "DONE.json", "rerun the command that made the folder, which writes it again"
    )
    return summary and {k: v for k, v in summary.items() if k != "metrics_sha256"}
