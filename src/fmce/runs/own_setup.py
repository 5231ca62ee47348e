"""Model and images of a training that was recorded in a loop of the user's own, handed in by the user."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmce.config.run import RunConfig
from fmce.data.batch import ImageBatch, ImageSet
from fmce.data.batch_slice import ALL_ROWS, rank_slice
from fmce.data.classification.classification import ClassificationData
from fmce.engine.runtime import Runtime
from fmce.models.build import call_named, feature_shape

OwnModel = str | nn.Module | Callable[[], nn.Module]
OwnData = str | Mapping[str, Any] | Callable[[], Mapping[str, Any]]
_SPLITS = ("train", "validation", "test")
# Test images, where the user gives none: a fifth of the training images, the last ones.
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class OwnSetup:
    """What `TrainingSetup` is for `fmce train`, for a recorded run.

    Args:
        config: The run's config.
        model: The network, a function without arguments that returns it, or the "module:function" name of one.
        given: Images, as `OwnData` describes: "train" and optionally "test" → (images, targets), where images are
            what the model takes, float (N,C,H,W), and targets class indices (N,) or None; optionally
            "class_names". Or a function that returns them, or the "module:function" name of one.
        origin: The file that the config was read from, for errors.
        module: Submodule whose output is the feature map; None takes the last recorded one that gives maps.
    """

    config: RunConfig
    model: OwnModel
    given: OwnData
    origin: Path
    module: str | None = None

    @cached_property
    def data(self) -> ClassificationData:
        """The images.

        Raises:
            ValueError: If they are not as described.
        """
        values = self.given
        if not isinstance(values, Mapping):
            values = call_named(values) if isinstance(values, str) else values()
        if not isinstance(values, Mapping) or "train" not in values:
            raise ValueError(
                f"{_name_of(self.given, 'data')} returned a {type(values).__name__}; expected a mapping with "
                '"train": (images, targets) and optional "test" and "class_names"'
            )
        parts = {name: _image_set(name, values[name]) for name in _SPLITS if name in values}
        train = parts["train"]
        if "test" not in parts:
            held = max(1, round(_TEST_SHARE * len(train)))
            index = torch.arange(len(train))
            parts["test"] = train.select(index[-held:])
            train = train.select(index[:-held])
        known = train.targets[train.targets >= 0]
        classes = int(known.max()) + 1 if len(known) else 0
        names = tuple(map(str, values.get("class_names", range(classes))))
        nothing = train.select(torch.arange(0))
        return ClassificationData(
            "own", train, parts.get("validation", nothing), parts["test"], names, (), ()
        )

    @property
    def labelled(self) -> bool:
        """Whether test images have targets."""
        return bool((self.data.test.targets >= 0).all())

    def new_model(self) -> nn.Module:
        """Return the network, whatever its weights.

        Raises:
            ValueError: If the function returns no module.
        """
        made = self.model
        if isinstance(made, str):
            made = call_named(made)
        elif isinstance(made, nn.Module):
            made = copy.deepcopy(made)
        else:
            made = made()
        if not isinstance(made, nn.Module):
            raise ValueError(
                f"{_name_of(self.model, 'model')} returned a {type(made).__name__}, expected an nn.Module; return the "
                "network that was recorded"
            )
        return made

    @cached_property
    def layer(self) -> str:
        """Name of the submodule whose output is the feature map.

        Raises:
            ValueError: If no recorded module gives one map (C,H,W) per image.
        """
        recorded = list(self.config.recorder.modules or ())
        names = recorded[::-1] if self.module is None else [self.module]
        _, *sides = self.data.train.images.shape
        shape, model, reason = (sides[0], sides[1], sides[2]), self.new_model(), ""
        for name in names:
            try:
                feature_shape(model, name, shape)
                return name
            except ValueError as error:
                reason = str(error)
        raise ValueError(
            f"{self.origin}: no feature maps from {', '.join(names) or 'any module'} ({reason}); name a submodule that "
            "returns one map (B, C, H, W) (--layer)"
        )

    def with_run_memory_format(self, runtime: Runtime) -> Runtime:
        """Return the runtime as it is: a custom loop decides itself how passes are computed."""
        return runtime

    def batches(self, part: ImageSet, runtime: Runtime, batch_size: int = 256) -> "OwnBatches":
        """Return batches of a split in order; of several ranks, each gets its share."""
        return OwnBatches(part, runtime, batch_size)

    def images(self, part: ImageSet, runtime: Runtime) -> Callable[[Tensor], Tensor]:
        """Return the map from positions in a split (B,) to the network's input (B,C,H,W)."""
        stored = part.placed(runtime.device).images
        return lambda index: stored[index.to(stored.device)].to(runtime.device)


@dataclass(frozen=True)
class OwnBatches:
    """Batches of a user's own images, as they are."""

    part: ImageSet
    runtime: Runtime
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.part) // self.batch_size)

    def epoch(self, _epoch: int = 0) -> Iterator[ImageBatch]:
        """Yield each image once."""
        ranks = self.runtime.ranks.rank_of if self.runtime.ranks else ALL_ROWS
        for index in torch.arange(len(self.part)).split(self.batch_size):  # type: ignore[no-untyped-call]
            own = index[rank_slice(len(index), *ranks).rows]
            images, targets = (
                t[own].to(self.runtime.device) for t in (self.part.images, self.part.targets)
            )
            yield ImageBatch(images, targets, own)


def _name_of(given: object, kind: str) -> str:
    return given if isinstance(given, str) else f"the {kind} function"


def _image_set(name: str, pair: Any) -> ImageSet:
    """Return a split's images as the model takes them; targets of −1 stand for none."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"expected {name!r}: (images, targets), got a {type(pair).__name__}")
    images, targets = pair
    images = torch.as_tensor(images)
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"{name}: expected images as the model takes them, float (N,C,H,W), got {images.dtype} "
            f"{tuple(images.shape)}"
        )
    labels = torch.full((len(images),), -1) if targets is None else torch.as_tensor(targets).long()
    if labels.shape != (len(images),):
        raise ValueError(
            f"{name}: expected a class index for each of {len(images)} images or None, got shape "
            f"{tuple(labels.shape)}"
        )
    return ImageSet(images, labels)
