"""The built-in scenes of a function-matching experiment, with masks or with boxes."""

from collections.abc import Callable, Sequence

from fmce.data.pools import ImagePool, MatchingData, empty_pool, stack_images
from fmce.data.scenes import SceneBatch, render_scene, render_scenes
from fmce.matching_config import PoolConfig
from fmce.matching_frames import image_bytes, keeps_files
from fmce.matching_pools import with_statistics

# Validation scenes come from a world of their own.
_OTHER_WORLD = 1_000_003
# How many there are of each kind unless the config says.
_LABELLED, _UNLABELLED, _VALIDATION = 60, 4000, 200


def scene_data(
    config: PoolConfig, with_targets: Callable[[SceneBatch], ImagePool], class_names: Sequence[str]
) -> MatchingData:
    """Render all images of an experiment.

    Args:
        config: how many, of which size, and the seed.
        with_targets: labelled scenes → their images and targets.
        class_names: what the targets' ids mean.

    Raises:
        ValueError: the images would not fit in memory.
    """
    labelled = config.labelled or _LABELLED
    validation = config.validation or _VALIDATION
    start, extra = labelled, config.unlabelled or _UNLABELLED
    _check_memory(2 * (labelled + validation) + extra + config.held_out, config)
    size = {"height": config.height, "width": config.width}
    return with_statistics(
        with_targets(render_scenes(range(labelled), seed=config.seed, **size)),
        _unlabelled(range(start, start + extra), config),
        _unlabelled(range(start + extra, start + extra + config.held_out), config),
        with_targets(render_scenes(range(validation), seed=config.seed + _OTHER_WORLD, **size)),
        class_names,
    )


def _unlabelled(numbers: range, config: PoolConfig) -> ImagePool:
    if not numbers:
        return empty_pool(config.height, config.width)
    scenes = (
        render_scene(i, seed=config.seed, height=config.height, width=config.width) for i in numbers
    )
    return ImagePool(stack_images((scene.image for scene in scenes), len(numbers)))


def _check_memory(count: int, config: PoolConfig) -> None:
    """Refuse that many images where they do not fit in memory; labelled ones are held twice for a while."""
    keeps_files("memory", image_bytes(config, count), 0)
