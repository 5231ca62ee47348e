"""A run folder read back: config, curves, phases, checkpoints, networks and FMCE-Nets.

The folder is the interface between commands; `open_run` is the way in for other programs.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fmce.config.io import read_yaml
from fmce.config.run import RunConfig, run_config
from fmce.config.trust import Trust, check_trusted
from fmce.convergence.phases import Phases
from fmce.data.classification.catalog import data_root
from fmce.files import reading
from fmce.models.fmce_net import FMCENet
from fmce.runs.checkpoint import checkpoint_epochs, checkpoint_path
from fmce.runs.log import read_done, read_metrics, read_phases, task_loss
from fmce.runs.own_setup import OwnData, OwnModel, OwnSetup
from fmce.runs.setup import TrainingSetup
from fmce.runs.weights import load_into


@dataclass(frozen=True)
class Run:
    """One training of the original task, on disk: a run folder and the config that it records."""

    path: Path
    config: RunConfig
    own: OwnSetup | None = None

    @cached_property
    def setup(self) -> TrainingSetup | OwnSetup:
        """Data, layer and batches of the training.

        Raises:
            ValueError: If it was recorded in a loop of the user's own, whose model and images were not given.
        """
        if self.own is not None:
            return self.own
        if self.config.recorder.model is not None:
            raise ValueError(
                f"{self.path} was recorded in a training loop of your own; name its network and images: --model "
                "module:function --data module:function (in Python, open_run(path, model=…, data=…))"
            )
        return TrainingSetup(self.config, self.path / "config.yaml")

    @property
    def training(self) -> TrainingSetup:
        """The setup of a training by `fmce train`.

        Raises:
            ValueError: If it was recorded in a loop of the user's own.
        """
        if not isinstance(self.setup, TrainingSetup):
            raise ValueError(f"{self.path} was recorded in a training loop of your own")
        return self.setup

    @property
    def marker_epochs(self) -> list[int]:
        """The epochs whose checkpoints stand for the markers: the markers, or where thinned the nearest kept.

        Raises:
            FileNotFoundError: If phases are missing, or there are fewer checkpoints than markers.
        """
        markers, kept = list(self.phases.markers), self.epochs
        if self.config.recorder.model is None or set(markers) <= set(kept):
            return markers
        smoothed, chosen = np.log(np.maximum(self.phases.smoothed, 1e-300)), list[int]()
        for marker in markers:
            free = [e for e in kept if e not in chosen and e <= self.phases.num_epochs]
            if not free:
                raise FileNotFoundError(
                    f"{self.path} has {len(kept)} checkpoints for {len(markers)} phases; record with keep='thinned'"
                )
            chosen.append(
                min(
                    free,
                    key=lambda e: (abs(smoothed[e - 1] - smoothed[marker - 1]), abs(e - marker)),
                )
            )
        return sorted(chosen)

    def marker_weights(self) -> dict[int, Path]:
        """Return the weights files of the marker checkpoints, by epoch.

        Raises:
            FileNotFoundError: If phases or a file are missing.
        """
        folder = self.path / "checkpoints"
        files = {e: checkpoint_path(folder, e) / "model.safetensors" for e in self.marker_epochs}
        if missing := [str(file) for file in files.values() if not file.exists()]:
            raise FileNotFoundError(
                f"marker checkpoints are missing: {', '.join(missing)}; train again, or find phases with the "
                "settings that they were kept for"
            )
        return files

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The metrics lines so far, one dict per epoch."""
        return read_metrics(self.path)

    @property
    def losses(self) -> list[float]:
        """The task's training loss of each epoch, in nats: the paper's L_1…L_M."""
        return [task_loss(row) for row in self.curve]

    @property
    def learning_rates(self) -> list[float]:
        """The learning rate of each epoch."""
        return [row["learning_rate"] for row in self.curve]

    @property
    def epochs(self) -> list[int]:
        """Epochs whose checkpoint is kept, ascending."""
        return checkpoint_epochs(self.path / "checkpoints")

    @property
    def done(self) -> dict[str, Any] | None:
        """The summary of a finished run; None before the end."""
        return read_done(self.path)

    @property
    def has_phases(self) -> bool:
        """Whether `fmce phases` has written its result.

        Raises:
            FileNotFoundError: If the run ended with phases, whose file is gone.
        """
        if (self.path / "phases.json").exists():
            return True
        if "markers" in (self.done or {}):
            read_phases(self.path)
        return False

    @property
    def phases(self) -> Phases:
        """The convergence phases found before.

        Raises:
            FileNotFoundError: If none were found yet.
            ValueError: If the file is damaged.
        """
        return read_phases(self.path)

    def model(self, epoch: int, device: torch.device | str = "cpu") -> nn.Module:
        """Return the network with the weights it had after an epoch, in eval mode.

        Args:
            epoch: 1-based epoch; its checkpoint must be kept.
            device: Where to put it.

        Raises:
            FileNotFoundError: If that epoch has no checkpoint.
            ValueError: If the checkpoint is damaged or belongs to another network.
        """
        return self.model_from(checkpoint_path(self.path / "checkpoints", epoch), device)

    def model_from(self, checkpoint: Path, device: torch.device | str = "cpu") -> nn.Module:
        """Return the network with the weights of a checkpoint folder or safetensors file; see `model`."""
        model = self.setup.new_model()
        name = self.config.recorder.model or repr(self.config.model.name)
        load_into(model, checkpoint, f"the model {name}")
        return model.to(device).eval()

    def fmce_net_folder(self, split: str, width: float | None = None) -> Path:
        """Return the folder of the FMCE-Net of a split and width, the config's by default, whether it exists or not."""
        width = self.config.fmce_net.width if width is None else width
        return self.path / "fmce_net" / (split if width == 1 else f"{split}-width{width:g}")

    def fmce_net_file(self, split: str, width: float | None = None) -> Path:
        """Return the file of that FMCE-Net's weights."""
        return self.fmce_net_folder(split, width) / "fmce_net.safetensors"

    def fmce_net(self, split: str, width: float | None = None) -> FMCENet:
        """Return the run's FMCE-Net trained on a split, in eval mode.

        Raises:
            FileNotFoundError: If it was not trained yet.
            ValueError: If it was trained on other markers than `phases.json` has now, or is damaged.
        """
        folder, file = self.fmce_net_folder(split, width), self.fmce_net_file(split, width)
        command = f"fmce train-net {self.path} --split {split}"
        if width not in (None, self.config.fmce_net.width):
            command += f" --set width={width:g}"
        config = folder / "config.yaml"
        if self.has_phases and config.exists():
            with reading(
                config, "the config of an FMCE-Net", f"delete {folder} and run: {command}"
            ):
                trained_on = read_yaml(config)["markers"]
            if trained_on != list(self.phases.markers):
                raise ValueError(
                    f"the FMCE-Net of split {split!r} in {self.path} was trained on markers {trained_on}, but "
                    f"phases.json now has {list(self.phases.markers)}; find phases with the earlier settings, "
                    f"or delete {folder} and run: {command}"
                )
        if not file.exists():
            raise FileNotFoundError(
                f"no FMCE-Net of split {split!r}: {file} is missing; run: {command}"
            )
        try:
            return FMCENet.load(file).eval()
        except ValueError as error:
            raise ValueError(f"{error}; delete {folder} and run: {command}") from error


def open_run(
    path: str | Path,
    *,
    trust: Trust = False,
    model: OwnModel | None = None,
    data: OwnData | None = None,
    layer: str | None = None,
) -> Run:
    """Open a run folder.

    Args:
        path: The folder that `fmce train --out` or a recorder wrote.
        trust: Whether functions that its config names ("my.module:function") may run; or which.
        model: Of a recorded run, the network or what makes it; see `OwnSetup`.
        data: Of a recorded run, the images; see `OwnSetup`.
        layer: Of a recorded run, the submodule whose output is the feature map.

    Raises:
        FileNotFoundError: If there is no such folder, or it is no run folder.
        ValueError: If its config cannot be read, belongs to another command, or names a function that is
            not trusted.
    """
    path = Path(path)
    if path.is_file():
        raise ValueError(f"{path} is a file; expected the run folder that fmce train --out wrote")
    if not path.is_dir():
        raise FileNotFoundError(f"no run folder {path}; make one with: fmce train --out {path}")
    config = run_config(path)
    check_trusted(path, config, trust)
    given = (model, data, layer)
    if config.recorder.model is None and given != (None, None, None):
        raise ValueError(
            f"{path} was made by fmce train, which knows its model and data; leave them out"
        )
    if model is None or data is None:
        if given != (None, None, None):
            raise ValueError(
                "a recorded run needs both its model and its data (--model and --data)"
            )
        return Run(path, config)
    return Run(path, config, OwnSetup(config, model, data, path / "config.yaml", layer))


def check_same_data(config: RunConfig, other: Run) -> None:
    """Refuse runs whose splits differ: test images of one could be training images of the other."""
    for name in ("name", "root", "split_seed", "train_images"):
        here, there = getattr(config.data, name), getattr(other.config.data, name)
        if name == "root":
            here, there = (str(data_root(root).resolve()) for root in (here, there))
        if here != there:
            raise ValueError(
                f"data.{name} is {here!r} here and {there!r} in {other.path}; both must have the same train, "
                "validation and test images"
            )
