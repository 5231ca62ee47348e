"""Labelled images for segmentation: BDD100K, CamVid, or any two folders of images and masks.

Pairs are found and checked once; an item is the image and its train ids as uint8 arrays. Resizing
and augmentation happen elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from fmce.data.image_files import (
    IMAGE_SUFFIXES,
    Stems,
    first_names,
    list_images,
    read_stems,
    stem_of,
)
from fmce.data.image_reader import DAMAGE_ERRORS, ImageArray, WrongMaskError, read_ids, read_rgb
from fmce.data.labelled_files import LabelledFiles
from fmce.losses.distillation import IGNORE_INDEX

BDD100K_CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car"),
    *("pedestrian", "bicyclist"),
)
CAMVID_VOID = 11
MASK_SUFFIXES = (".png", ".webp", ".bmp", ".tif", ".tiff")
_WRONG = 254  # marks values of the id table that are no class; never a train id itself
Unpaired = Literal["error", "skip"]


class LabelledImage(NamedTuple):
    """An image uint8 (H,W,3) and its mask of train ids uint8 (H,W), 255 where ignored."""

    image: ImageArray
    mask: ImageArray


@dataclass(eq=False, kw_only=True)
class SegmentationFiles(LabelledFiles[LabelledImage]):
    """Images and masks.

    Attributes:
        mask_paths: Mask of each image.
        id_map: Ids in the files to train ids, where they differ (CamVid: 11 → 255).
    """

    mask_paths: Sequence[Path]
    id_map: Mapping[int, int] = field(default_factory=dict)
    per_image: ClassVar[tuple[str, ...]] = ("image_paths", "mask_paths")

    def __post_init__(self) -> None:
        """Check the set; nothing is read yet.

        Raises:
            ValueError: If there is no image, more than 254 classes, or a wrong `id_map`.
        """
        super().__post_init__()
        if len(self.class_names) > _WRONG:
            raise ValueError(
                f"{self.name}: expected at most {_WRONG} classes, got {len(self.class_names)}"
            )
        self._table = _id_table(len(self.class_names), self.id_map)

    def check(self) -> dict[str, int]:
        """Read every item once; refuse wrong class ids, colour maps and masks of another size.

        Returns:
            Pixels by class name, ignored ones under "ignored". Unreadable files are in `damaged`.

        Raises:
            ValueError: If a mask has values that are no class, several channels, or another size than
                its image; the message names the first such files.
            UnreadableDataError: If more reads than `max_failure_rate` failed.
        """
        problems: list[str] = []
        pixels = np.zeros(256, dtype=np.int64)
        for index in range(len(self)):
            try:
                pixels += np.bincount(self.read(index).mask.ravel(), minlength=256)
            except WrongMaskError as error:
                problems.append(str(error))
            except DAMAGE_ERRORS as error:
                self.failures.failed(index, error, self.image_name)
                continue
            self.failures.succeeded()
        if problems:
            raise ValueError(
                f"{self.name}, {len(problems)} of {len(self)} items are wrong: "
                f"{first_names(problems, separator='; ')}"
            )
        named = zip(self.class_names, pixels.tolist(), strict=False)
        return dict(named) | {"ignored": int(pixels[IGNORE_INDEX])}

    def read(self, index: int) -> LabelledImage:
        """Decode a pair and translate its ids.

        Raises:
            WrongMaskError: If ids or size do not fit.
            OSError: If a file is damaged (or another of `image_reader.DAMAGE_ERRORS`).
        """
        image = read_rgb(self.image_paths[index])
        height, width = image.shape[:2]
        return LabelledImage(image, self.read_mask(index, (height, width)))

    def read_mask(self, index: int, size: tuple[int, int] | None) -> ImageArray:
        """Decode a mask alone, of an image of a height and width, and translate its ids; errors as in `read`."""
        mask_path, ids = self.mask_paths[index], read_ids(self.mask_paths[index])
        if size is not None and size != ids.shape:
            raise WrongMaskError(
                f"{mask_path} is {ids.shape[0]}×{ids.shape[1]}, its image "
                f"{size[0]}×{size[1]} (height × width)"
            )
        mask = self._table[ids]
        if (mask == _WRONG).any():
            wrong = np.unique(ids[mask == _WRONG]).tolist()
            raise WrongMaskError(
                f"{mask_path} holds {first_names([str(i) for i in wrong])}, expected class ids "
                f"0 … {len(self.class_names) - 1} or {IGNORE_INDEX}"
            )
        return mask


def _id_table(num_classes: int, id_map: Mapping[int, int]) -> ImageArray:
    """Return the train id uint8 (256,) of every value of a mask, `_WRONG` for those that are no class."""
    table = np.full(256, _WRONG, dtype=np.uint8)
    table[:num_classes] = np.arange(num_classes)
    table[IGNORE_INDEX] = IGNORE_INDEX
    for source, target in id_map.items():
        if not 0 <= source <= 255 or not (0 <= target < num_classes or target == IGNORE_INDEX):
            raise ValueError(
                f"expected id_map from 0 … 255 to 0 … {num_classes - 1} or {IGNORE_INDEX}, got "
                f"{source} → {target}"
            )
        table[source] = target
    return table


def _by_key(folder: Path, suffixes: tuple[str, ...], ending: str = "") -> dict[str, Path]:
    """Return files by their path inside the folder, without suffix and without `ending`."""
    files: dict[str, Path] = {}
    for path in list_images(folder, suffixes, aloud=True):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if not key.endswith(ending):
            continue
        key = key.removesuffix(ending)
        if key in files:
            raise ValueError(f"expected one file per stem, got {files[key]} and {path}")
        files[key] = path
    return files


def folder_pair(
    images: Path | str,
    masks: Path | str,
    class_names: Sequence[str],
    *,
    mask_ending: str = "",
    id_map: Mapping[int, int] | None = None,
    exclude: Stems = (),
    unpaired: Unpaired = "error",
) -> SegmentationFiles:
    """Pair a folder of images with a folder of masks by their nested paths without suffix.

    Args:
        images: Folder of images.
        masks: Folder of masks of class ids, in formats without loss.
        class_names: Names of the train ids 0 … C − 1.
        mask_ending: What the stem of a mask adds to that of its image, for instance "_train_id".
        id_map: Ids in the files to train ids, where they differ.
        exclude: Images to leave out.
        unpaired: What to do with an image or mask that has no partner.

    Returns:
        The pairs, sorted by path.

    Raises:
        ValueError: If a folder is missing, files have no partner, or nothing is left.
    """
    images, masks = Path(images), Path(masks)
    left_out = read_stems(exclude)
    image_files, mask_files = (
        {key: path for key, path in found.items() if stem_of(key) not in left_out}
        for found in (
            _by_key(images, IMAGE_SUFFIXES),
            _by_key(masks, MASK_SUFFIXES, mask_ending),
        )
    )
    alone = sorted(image_files.keys() ^ mask_files.keys())
    if alone and unpaired == "error":
        named = [k + (" (no mask)" if k in image_files else " (no image)") for k in alone]
        raise ValueError(
            f"{len(image_files)} images in {images} and {len(mask_files)} masks in {masks} do not "
            f"pair: {first_names(named)}; exclude these stems (--exclude FILE) or pass unpaired='skip'"
        )
    common = sorted(image_files.keys() & mask_files.keys())
    return SegmentationFiles(
        name=str(images),
        image_paths=[image_files[key] for key in common],
        mask_paths=[mask_files[key] for key in common],
        class_names=class_names,
        id_map=id_map or {},
    )


def bdd100k_segmentation(
    root: Path | str, split: str, *, exclude: Stems = (), unpaired: Unpaired = "error"
) -> SegmentationFiles:
    """Find BDD100K's semantic segmentation set (19 classes, train ids, 255 ignored).

    Layouts below `root`, in this order: images/10k/{split} with labels/sem_seg/masks/{split};
    images/{split} with masks/{split}; the first release's images/{split} with
    labels/{split}/*_train_id.png.

    Args:
        root: Folder of the data set.
        split: "train" or "val"; the test set has no public masks.
        exclude: As in `folder_pair`.
        unpaired: As in `folder_pair`.

    Raises:
        ValueError: If no layout is there, or as in `folder_pair`.
    """
    root = Path(root)
    layouts = (
        (f"images/10k/{split}", f"labels/sem_seg/masks/{split}", ""),
        (f"images/{split}", f"masks/{split}", ""),
        (f"images/{split}", f"labels/{split}", "_train_id"),
    )
    for images, masks, ending in layouts:
        if (root / images).is_dir() and (root / masks).is_dir():
            return folder_pair(
                root / images,
                root / masks,
                BDD100K_CLASSES,
                mask_ending=ending,
                exclude=exclude,
                unpaired=unpaired,
            )
    raise _missing(root, [f"{images} with {masks}" for images, masks, _ in layouts])


def camvid(
    root: Path | str, split: str, *, exclude: Stems = (), unpaired: Unpaired = "error"
) -> SegmentationFiles:
    """Find CamVid in the layout {split} and {split}annot (11 classes; 11 = void becomes 255).

    Args:
        root: Folder of the data set.
        split: "train", "val" or "test".
        exclude: As in `folder_pair`.
        unpaired: As in `folder_pair`.

    Raises:
        ValueError: If the folders are missing, or as in `folder_pair`.
    """
    images, masks = Path(root) / split, Path(root) / f"{split}annot"
    if not (images.is_dir() and masks.is_dir()):
        raise _missing(Path(root), [f"{split} with {split}annot"])
    return folder_pair(
        images,
        masks,
        CAMVID_CLASSES,
        id_map={CAMVID_VOID: IGNORE_INDEX},
        exclude=exclude,
        unpaired=unpaired,
    )


def _missing(root: Path, layouts: Sequence[str]) -> ValueError:
    here = sorted(p.name for p in root.iterdir()) if root.is_dir() else ["no such folder"]
    return ValueError(
        f"expected below {root} the folders {', or '.join(layouts)}; found {first_names(here)}"
    )
