"""The built-in scenes of a function-matching experiment, with masks or with boxes."""

from collections.abc import Callable, Sequence

from fmce.config.distillation import DistillationDataConfig
from fmce.data.pools import ImagePool, empty_pool, stack_images
from fmce.data.road_scenes.scenes import SceneBatch, render_scene, render_scenes
from fmce.distillation.data.pools import (
    DistillationData,
    image_bytes,
    stays_on_disk,
    with_statistics,
)
from fmce.seeding import validation_scenes_seed

# Numbers of images that the config leaves open.
_LABELLED, _UNLABELLED, _VALIDATION = 60, 4000, 200


def scene_data(
    config: DistillationDataConfig,
    with_targets: Callable[[SceneBatch], ImagePool],
    class_names: Sequence[str],
) -> DistillationData:
    """Render all images of an experiment; `with_targets` turns labelled scenes into their images and targets.

    Raises:
        ValueError: If the images would not fit in memory.
    """
    labelled, extra = config.labelled or _LABELLED, config.unlabelled or _UNLABELLED
    validation, used = config.validation or _VALIDATION, labelled + extra
    # Labelled images are held twice for a while.
    count = 2 * (labelled + validation) + extra + config.held_out
    stays_on_disk("memory", image_bytes(config, count), 0)
    size, other = (config.height, config.width), validation_scenes_seed(config.seed)

    def labelled_pool(number: int, seed: int) -> ImagePool:
        return with_targets(render_scenes(range(number), seed=seed, height=size[0], width=size[1]))

    return with_statistics(
        labelled_pool(labelled, config.seed),
        _unlabelled(range(labelled, used), config),
        _unlabelled(range(used, used + config.held_out), config),
        labelled_pool(validation, other),
        class_names,
    )


def _unlabelled(numbers: range, config: DistillationDataConfig) -> ImagePool:
    if not numbers:
        return empty_pool(config.height, config.width)
    size = {"height": config.height, "width": config.width}
    images = (render_scene(i, seed=config.seed, **size).image for i in numbers)
    return ImagePool(stack_images(images, len(numbers)))
