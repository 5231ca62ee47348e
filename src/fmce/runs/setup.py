"""What the config of a training asks for: data, network, layer and batches, made on demand."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fmce.config.run import RunConfig
from fmce.data.batch import ImageBatches, ImageSet
from fmce.data.classification.classification import ClassificationData, load_classification
from fmce.data.transforms import ImageTransform
from fmce.engine.runtime import Runtime
from fmce.files import wanted_by
from fmce.models.build import build_model, default_layer, feature_shape
from fmce.models.features import find_module


@dataclass(frozen=True)
class TrainingSetup:
    """The parts of one training of the original task, without any folder."""

    config: RunConfig
    origin: Path | None = None
    """The file that the config was read from, which errors about its names then open with."""

    @cached_property
    def data(self) -> ClassificationData:
        """The data set of the original task."""
        section = asdict(self.config.data)
        options = {k: section[k] for k in ("split_seed", "root", "image_size", "train_images")}
        with wanted_by(self.origin):
            return load_classification(section["name"], **options)

    @property
    def transform(self) -> ImageTransform:
        """From stored images to the network's input, with the data set's statistics."""
        section = self.config.data
        variation: dict[str, Any] = {n: getattr(section, n) for n in ("shift", "noise", "flip")}
        return ImageTransform(section.image_size, self.data.mean, self.data.std, **variation)

    @cached_property
    def layer(self) -> str:
        """Name of the submodule whose output is the feature map."""
        return self.layer_of(self.new_model())

    def layer_of(self, model: nn.Module) -> str:
        """Return the layer that the config names, or else that of the model's family."""
        layer = self.config.model.layer
        with wanted_by(self.origin):
            if layer is not None:
                find_module(model, layer)
            return layer or default_layer(model, self.config.model.name)

    def new_model(self, num_classes: int | None = None) -> nn.Module:
        """Build the network with fresh weights; without `num_classes` the data set is read for it."""
        num_classes = num_classes or len(self.data.class_names)
        section = self.config.model
        with wanted_by(self.origin):
            return build_model(section.name, num_classes, options=section.options)

    def map_shape(self, model: nn.Module) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of the feature maps that the network gives here."""
        side = self.config.data.image_size
        device = next(model.parameters()).device
        with wanted_by(self.origin):
            return feature_shape(model, self.layer_of(model), (3, side, side), device)

    def with_run_memory_format(self, runtime: Runtime) -> Runtime:
        """Return a runtime with the memory order and the TF32 choice of the training, or its own."""
        section = self.config.runtime
        channels_last = runtime.channels_last or section.channels_last
        return replace(runtime, channels_last=channels_last, tf32=runtime.tf32 or section.tf32)

    def training_batches(self, runtime: Runtime, seed: int | None = None) -> ImageBatches:
        """Return the shuffled and varied training batches of a seed, by default the config's; ranks share them."""
        section = self.config.train
        seed = section.seed if seed is None else seed
        return self.batches(self.data.train, runtime, section.batch_size, seed)

    def batches(
        self, part: ImageSet, runtime: Runtime, batch_size: int = 512, seed: int | None = None
    ) -> ImageBatches:
        """Return batches of a split, unvaried and in order without a seed; ranks share them."""
        place: dict[str, Any] = {"device": runtime.device, "rank_of": runtime.ranks.rank_of}
        return ImageBatches(part, self.transform, batch_size, seed=seed, **place)

    def images(self, part: ImageSet, runtime: Runtime) -> Callable[[Tensor], Tensor]:
        """Return the map from positions in a split (B,) to unvaried network input (B,3,H,W)."""
        stored, transform = part.placed(runtime.device).images, self.transform

        def chosen(index: Tensor) -> Tensor:
            return stored[index.to(stored.device, non_blocking=True)].to(runtime.device)

        return lambda index: transform(chosen(index))
