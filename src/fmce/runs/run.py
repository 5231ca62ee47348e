"""A run folder read back: config, curves, phases, checkpoints, models, its FMCE-Nets.

The folder is the interface between commands; `open_run` is the way in for a program of your own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from fmce.config.run import RunConfig, run_config
from fmce.convergence.phases import Phases
from fmce.data.batch import ImageBatches, ImageSet
from fmce.data.classification.catalog import data_root
from fmce.data.classification.classification import ClassificationData, load_classification
from fmce.data.transforms import ImageTransform
from fmce.engine.runtime import Runtime
from fmce.models.build import build_model, default_layer
from fmce.models.fmce_net import FMCENet
from fmce.runs.checkpoint import checkpoint_epochs, checkpoint_path, load_weights
from fmce.runs.log import read_done, read_metrics, task_loss


@dataclass(frozen=True)
class Run:
    """One training of the original task, on disk."""

    path: Path
    config: RunConfig

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The metrics lines so far, one dict an epoch."""
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
        """The summary of a finished run; None while it is not."""
        return read_done(self.path)

    @property
    def has_phases(self) -> bool:
        """Whether `fmce phases` has written its result."""
        return (self.path / "phases.json").exists()

    @property
    def phases(self) -> Phases:
        """The convergence phases found before.

        Raises:
            FileNotFoundError: none were found yet.
        """
        if not self.has_phases:
            raise FileNotFoundError(f"{self.path} has no phases.json; run: fmce phases {self.path}")
        return Phases.from_json((self.path / "phases.json").read_text(encoding="utf-8"))

    @cached_property
    def data(self) -> ClassificationData:
        """The data set of the original task."""
        section = self.config.data
        return load_classification(
            section.name,
            split_seed=section.split_seed,
            root=section.root,
            image_size=section.image_size,
            train_images=section.train_images,
        )

    @property
    def transform(self) -> ImageTransform:
        """From stored images to the network's input."""
        return make_transform(self.config, self.data)

    @cached_property
    def layer(self) -> str:
        """Name of the submodule whose output is the feature map."""
        return layer_of(self.config, self.new_model())

    def new_model(self) -> nn.Module:
        """Return the run's network with fresh weights."""
        return make_model(self.config, len(self.data.class_names))

    def model(self, epoch: int, device: torch.device | str = "cpu") -> nn.Module:
        """Return the network with the weights it had after an epoch, in eval mode.

        Args:
            epoch: 1-based epoch; its checkpoint must be kept.
            device: where to put it.

        Raises:
            FileNotFoundError: that epoch has no checkpoint.
            ValueError: the checkpoint is damaged, or is not of this network.
        """
        return self.model_from(checkpoint_path(self.path / "checkpoints", epoch), device)

    def model_from(self, checkpoint: Path, device: torch.device | str = "cpu") -> nn.Module:
        """Return the network with the weights of a checkpoint folder or safetensors file; see `model`."""
        model = self.new_model()
        weights = load_weights(checkpoint)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).replace("\n", " ")[:300]
            raise ValueError(
                f"{checkpoint} does not fit the model {self.config.model.name!r}: {reason}"
            ) from error
        return model.to(device).eval()

    def with_run_memory_format(self, runtime: Runtime) -> Runtime:
        """Return a runtime with the memory order and the TF32 choice that the run was trained with, or its own."""
        section = self.config.runtime
        channels_last = runtime.channels_last or section.channels_last
        return replace(runtime, channels_last=channels_last, tf32=runtime.tf32 or section.tf32)

    def images(self, part: ImageSet, runtime: Runtime) -> Callable[[Tensor], Tensor]:
        """Return the map from positions in a split to unvaried network input."""
        stored, transform = part.placed(runtime.device).images, self.transform
        return lambda index: transform(
            stored[index.to(stored.device, non_blocking=True)].to(runtime.device)
        )

    def batches(self, part: ImageSet, runtime: Runtime, batch_size: int = 512) -> ImageBatches:
        """Return unvaried batches of a split, in order; of several ranks, each gets its share of them."""
        return ImageBatches(
            part, self.transform, batch_size, device=runtime.device, share=runtime.ranks.share
        )

    def fmce_net_folder(self, split: str, width: float | None = None) -> Path:
        """Return where the FMCE-Net trained on a split stands (or would).

        Args:
            split: what was held out.
            width: share of the published network's channels; None is that of the run's config.
        """
        width = self.config.fmce_net.width if width is None else width
        return self.path / "fmce_net" / (split if width == 1 else f"{split}-width{width:g}")

    def fmce_net_file(self, split: str, width: float | None = None) -> Path:
        """Return the file of that FMCE-Net's weights."""
        return self.fmce_net_folder(split, width) / "fmce_net.safetensors"

    def _check_markers_of(self, split: str, width: float | None) -> None:
        folder = self.fmce_net_folder(split, width)
        config = folder / "config.yaml"
        if not config.exists() or not self.has_phases:
            return
        trained_on = yaml.safe_load(config.read_text(encoding="utf-8"))["markers"]
        if trained_on != list(self.phases.markers):
            raise ValueError(
                f"the FMCE-Net of split {split!r} in {self.path} was trained on markers {trained_on}, but "
                f"phases.json now has {list(self.phases.markers)}; find phases with the earlier settings, "
                f"or delete {folder} and run: {self._train_net(split, width)}"
            )

    def _train_net(self, split: str, width: float | None) -> str:
        """Return the command that trains an FMCE-Net."""
        narrow = width is not None and width != self.config.fmce_net.width
        extra = f" --set width={width:g}" if narrow else ""
        return f"fmce train-net {self.path} --split {split}{extra}"

    def fmce_net(self, split: str, width: float | None = None) -> FMCENet:
        """Return the run's FMCE-Net trained on a split, in eval mode.

        Raises:
            FileNotFoundError: it was not trained yet.
            ValueError: it was trained on other markers than `phases.json` has now, or is damaged.
        """
        self._check_markers_of(split, width)
        file = self.fmce_net_file(split, width)
        if not file.exists():
            raise FileNotFoundError(
                f"no FMCE-Net of split {split!r}: {file} is missing; run: {self._train_net(split, width)}"
            )
        try:
            return FMCENet.load(file).eval()
        except ValueError as error:
            raise ValueError(
                f"{error}; delete {file.parent} and run: {self._train_net(split, width)}"
            ) from error


def open_run(path: str | Path) -> Run:
    """Open a run folder.

    Args:
        path: the folder given to `fmce train --out`.

    Raises:
        FileNotFoundError: there is no such folder, or it is no run folder.
        ValueError: its config cannot be read, or is another command's.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no run folder {path}; make one with: fmce train --out {path}")
    return Run(path, run_config(path))


def check_same_data(config: RunConfig, other: Run) -> None:
    """Refuse two runs whose train and test images are not the same: one's test would be the other's training.

    Raises:
        ValueError: the data set, its place, its split or its subset differ.
    """
    for name in ("name", "root", "split_seed", "train_images"):
        here, there = getattr(config.data, name), getattr(other.config.data, name)
        if name == "root":
            here, there = (str(data_root(root).resolve()) for root in (here, there))
        if here != there:
            raise ValueError(
                f"data.{name} is {here!r} here and {there!r} in {other.path}; both must have the same train, "
                "validation and test images"
            )


def make_model(config: RunConfig, num_classes: int) -> nn.Module:
    """Build a run's network with fresh weights."""
    return build_model(config.model.name, num_classes, options=config.model.options)


def layer_of(config: RunConfig, model: nn.Module) -> str:
    """Return the layer the config names, or the family's."""
    return config.model.layer or default_layer(model, config.model.name)


def make_transform(config: RunConfig, data: ClassificationData) -> ImageTransform:
    """Return the transform a config asks for, with the data set's statistics."""
    section = config.data
    return ImageTransform(
        section.image_size,
        data.mean,
        data.std,
        shift=section.shift,
        noise=section.noise,
        flip=section.flip,
    )
