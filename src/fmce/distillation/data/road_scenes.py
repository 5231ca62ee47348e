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
    """Render all images of an experiment.

    Args:
        config: How many, of which size, and the seed.
        with_targets: Labelled scenes → their images and targets.
        class_names: Names of the targets' ids.

    Raises:
        ValueError: If the images would not fit in memory.
    """
    labelled = config.labelled or _LABELLED
    validation = config.validation or _VALIDATION
    start, extra = labelled, config.unlabelled or _UNLABELLED
    # Labelled images are held twice for a while.
    count = 2 * (labelled + validation) + extra + config.held_out
    stays_on_disk("memory", image_bytes(config, count), 0)
    size = {"height": config.height, "width": config.width}
    return with_statistics(
        with_targets(render_scenes(range(labelled), seed=config.seed, **size)),
        _unlabelled(range(start, start + extra), config),
        _unlabelled(range(start + extra, start + extra + config.held_out), config),
        with_targets(
            render_scenes(range(validation), seed=validation_scenes_seed(config.seed), **size)
        ),
        class_names,
    )


def _unlabelled(numbers: range, config: DistillationDataConfig) -> ImagePool:
    if not numbers:
        return empty_pool(config.height, config.width)
    scenes = (
        render_scene(i, seed=config.seed, height=config.height, width=config.width) for i in numbers
    )
    return ImagePool(stack_images((scene.image for scene in scenes), len(numbers)))
