"""Labelled images for segmentation: BDD100K, CamVid, or any two folders of images and masks.

Pairs are found and checked once; an item is the image and its train ids as uint8 arrays. Resizing
and augmentation are not done here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from fmce.data.image_files import (
    DAMAGE_ERRORS,
    IMAGE_SUFFIXES,
    ImageArray,
    ReadFailures,
    WrongMaskError,
    first_names,
    list_images,
    read_ids,
    read_or_substitute,
    read_rgb,
    read_stems,
    stem_of,
)
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
Split = Literal["train", "val", "test"]
_WRONG = 254  # marks, in the id table, values that are no class; never a train id itself


class LabelledImage(NamedTuple):
    """An image uint8 (H, W, 3) and its mask of train ids uint8 (H, W), 255 where ignored."""

    image: ImageArray
    mask: ImageArray


@dataclass(frozen=True)
class FilePair:
    """An image's file and its mask's."""

    image: Path
    mask: Path


@dataclass(frozen=True)
class CheckReport:
    """What a check of a data set found.

    Attributes:
        items: Items of the set.
        checked: Items read for this report.
        unreadable: Files that could not be decoded, in order.
        pixels: Pixels by class name over the checked masks, ignored ones under "ignored".
    """

    items: int
    checked: int
    unreadable: tuple[str, ...]
    pixels: Mapping[str, int]


class SegmentationFiles:
    """Pairs of images and masks, read on access; for a damaged pair the next readable stands in.

    Attributes:
        name: What the set is called in messages.
        pairs: Files, in the order given.
        class_names: Names of the train ids 0 … C − 1.
        failures: Counts of reads and failures.
    """

    def __init__(
        self,
        pairs: Iterable[FilePair],
        class_names: Sequence[str],
        *,
        name: str,
        id_map: Mapping[int, int] | None = None,
        max_failure_rate: float = 0.01,
    ) -> None:
        """Keep the pairs; nothing is read yet.

        Args:
            pairs: Images and masks, at least one; their order is kept.
            class_names: Names of the train ids 0 … C − 1, at most 254.
            name: What the set is called in messages.
            id_map: Ids in the files to train ids, for those that differ (CamVid: 11 → 255).
            max_failure_rate: Share of failed reads, in [0, 1], above which reading raises.

        Raises:
            ValueError: No pair, or more classes than uint8 masks can hold.
        """
        self.name = name
        self.pairs = tuple(pairs)
        if not self.pairs:
            raise ValueError(f"{name}: expected at least one image with a mask, found none.")
        if len(class_names) > _WRONG:
            raise ValueError(f"{name}: expected at most {_WRONG} classes, got {len(class_names)}.")
        self.class_names = tuple(class_names)
        self.id_map = dict(id_map or {})
        self._table = _id_table(len(self.class_names), self.id_map)
        self.failures = ReadFailures(len(self.pairs), max_rate=max_failure_rate)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def stems(self) -> tuple[str, ...]:
        """Stems of the images, in order."""
        return tuple(stem_of(pair.image.name) for pair in self.pairs)

    @property
    def image_paths(self) -> tuple[Path, ...]:
        """Files of the images, in order; as unlabelled frames they need no mask."""
        return tuple(pair.image for pair in self.pairs)

    @property
    def damaged(self) -> tuple[str, ...]:
        """Images that could not be read so far, or whose masks could not."""
        return tuple(self._name_of(i) for i in self.failures.failed_items)

    def __getitem__(self, index: int) -> LabelledImage:
        """Read one item, or the next readable one in its place.

        Raises:
            IndexError: The index is out of range.
            UnreadableDataError: More reads than the set rate failed.
        """
        return read_or_substitute(index, len(self), self._read, self.failures, self._name_of)

    def select(self, indices: Iterable[int]) -> "SegmentationFiles":
        """Return the set of the given items, with counts of its own."""
        return SegmentationFiles(
            [self.pairs[i] for i in indices],
            self.class_names,
            name=self.name,
            id_map=self.id_map,
            max_failure_rate=self.failures.max_rate,
        )

    def check(self, *, sample: int | None = 64) -> CheckReport:
        """Read items once and refuse wrong class ids, colour maps and sizes that differ.

        Files that cannot be decoded are reported, and are an error only beyond the failure rate.

        Args:
            sample: Items to read, evenly spread over the set; None reads all.

        Returns:
            Counts, unreadable files and pixels by class.

        Raises:
            ValueError: A mask has values that are no class, several channels, or another size than
                its image; the first offending files are named with what was found.
            UnreadableDataError: More reads than the set rate failed.
        """
        indices = _spread(len(self), sample)
        failures = ReadFailures(len(self), max_rate=self.failures.max_rate)
        problems: list[str] = []
        pixels = np.zeros(256, dtype=np.int64)
        for index in indices:
            try:
                pixels += np.bincount(self._read(index).mask.ravel(), minlength=256)
            except WrongMaskError as error:
                problems.append(str(error))
            except DAMAGE_ERRORS as error:
                failures.failed(index, error, self._name_of)
                continue
            failures.succeeded()
        if problems:
            raise ValueError(
                f"{self.name}, {len(problems)} of {len(indices)} items are wrong: "
                f"{first_names(problems, separator='; ')}"
            )
        named = zip(self.class_names, pixels.tolist(), strict=False)
        return CheckReport(
            items=len(self),
            checked=len(indices),
            unreadable=tuple(self._name_of(i) for i in failures.failed_items),
            pixels=dict(named) | {"ignored": int(pixels[IGNORE_INDEX])},
        )

    def _name_of(self, index: int) -> str:
        return str(self.pairs[index].image)

    def _read(self, index: int) -> LabelledImage:
        """Decode a pair and translate its ids; WrongMaskError where they do not fit."""
        pair = self.pairs[index]
        image, ids = read_rgb(pair.image), read_ids(pair.mask)
        if image.shape[:2] != ids.shape:
            raise WrongMaskError(
                f"{pair.mask} is {ids.shape[0]}×{ids.shape[1]}, its image "
                f"{image.shape[0]}×{image.shape[1]} (height × width)"
            )
        mask = self._table[ids]
        if (mask == _WRONG).any():
            wrong = np.unique(ids[mask == _WRONG]).tolist()
            raise WrongMaskError(
                f"{pair.mask} holds {first_names([str(i) for i in wrong])}, expected class ids "
                f"0 … {len(self.class_names) - 1} or {IGNORE_INDEX}"
            )
        return LabelledImage(image, mask)


def _id_table(num_classes: int, id_map: Mapping[int, int]) -> ImageArray:
    """Return the train id of every value a mask can hold, `_WRONG` for those that are no class."""
    table = np.full(256, _WRONG, dtype=np.uint8)
    table[:num_classes] = np.arange(num_classes)
    table[IGNORE_INDEX] = IGNORE_INDEX
    for source, target in id_map.items():
        if not 0 <= source <= 255 or not (0 <= target < num_classes or target == IGNORE_INDEX):
            raise ValueError(
                f"expected id_map from 0 … 255 to 0 … {num_classes - 1} or {IGNORE_INDEX}, got "
                f"{source} → {target}."
            )
        table[source] = target
    return table


def _spread(num_items: int, sample: int | None) -> list[int]:
    if sample is not None and sample < 1:
        raise ValueError(f"expected a sample of at least 1 item, or None for all, got {sample}.")
    total = num_items if sample is None else min(sample, num_items)
    return [i * num_items // total for i in range(total)]


def _by_key(folder: Path, suffixes: tuple[str, ...], ending: str = "") -> dict[str, Path]:
    """Return files by their path inside the folder without suffix and without `ending`."""
    files: dict[str, Path] = {}
    for path in list_images(folder, suffixes):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if not key.endswith(ending):
            continue
        key = key.removesuffix(ending)
        if key in files:
            raise ValueError(f"expected one file a stem, got {files[key]} and {path}.")
        files[key] = path
    return files


def folder_pair(
    images: Path | str,
    masks: Path | str,
    class_names: Sequence[str],
    *,
    mask_ending: str = "",
    id_map: Mapping[int, int] | None = None,
    exclude: Path | str | Iterable[str] = (),
    unpaired: Literal["error", "skip"] = "error",
    max_failure_rate: float = 0.01,
) -> SegmentationFiles:
    """Pair a folder of images with a folder of masks by their paths without suffix, nested alike.

    Args:
        images: Folder of JPEG, PNG or WebP images.
        masks: Folder of PNG or lossless WebP masks holding class ids.
        class_names: Names of the train ids 0 … C − 1.
        mask_ending: What a mask's stem has behind its image's, for instance "_train_id".
        id_map: Ids in the files to train ids, for those that differ.
        exclude: Stems to leave out: a text file with one a line, or an iterable.
        unpaired: What to do with an image or mask that has no partner.
        max_failure_rate: Share of failed reads, in [0, 1], above which reading raises.

    Returns:
        The pairs, sorted.

    Raises:
        ValueError: A folder is missing, files have no partner, or nothing is left.
    """
    images, masks = Path(images), Path(masks)
    out = read_stems(exclude)
    image_files = {
        k: p for k, p in _by_key(images, IMAGE_SUFFIXES).items() if stem_of(k) not in out
    }
    mask_files = {
        k: p
        for k, p in _by_key(masks, (".png", ".webp"), mask_ending).items()
        if stem_of(k) not in out
    }
    alone = sorted(image_files.keys() ^ mask_files.keys())
    if alone and unpaired == "error":
        named = [k + (" (no mask)" if k in image_files else " (no image)") for k in alone]
        raise ValueError(
            f"{len(image_files)} images in {images} and {len(mask_files)} masks in {masks} do not "
            f"pair: {first_names(named)}. Exclude these stems (--exclude FILE) or pass unpaired='skip'."
        )
    common = sorted(image_files.keys() & mask_files.keys())
    return SegmentationFiles(
        [FilePair(image_files[k], mask_files[k]) for k in common],
        class_names,
        name=str(images),
        id_map=id_map,
        max_failure_rate=max_failure_rate,
    )


def bdd100k_segmentation(
    root: Path | str,
    split: Split,
    *,
    exclude: Path | str | Iterable[str] = (),
    unpaired: Literal["error", "skip"] = "error",
    max_failure_rate: float = 0.01,
) -> SegmentationFiles:
    """Find BDD100K's semantic segmentation set (19 classes, train ids, 255 ignored).

    Layouts, tried in this order below `root`: images/10k/{split} with labels/sem_seg/masks/{split};
    images/{split} with masks/{split}; the first release's images/{split} with
    labels/{split}/*_train_id.png.

    Args:
        root: Folder of the data set.
        split: "train" or "val"; the test set has no public masks.
        exclude: As in `folder_pair`.
        unpaired: As in `folder_pair`.
        max_failure_rate: As in `folder_pair`.

    Returns:
        The pairs, sorted by stem.

    Raises:
        ValueError: No layout is there, or as in `folder_pair`.
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
                max_failure_rate=max_failure_rate,
            )
    raise _missing(root, [f"{images} with {masks}" for images, masks, _ in layouts])


def camvid(
    root: Path | str,
    split: Split,
    *,
    exclude: Path | str | Iterable[str] = (),
    unpaired: Literal["error", "skip"] = "error",
    max_failure_rate: float = 0.01,
) -> SegmentationFiles:
    """Find CamVid in the layout {split} and {split}annot (11 classes; 11 = void becomes 255).

    Args:
        root: Folder of the data set.
        split: "train", "val" or "test".
        exclude: As in `folder_pair`.
        unpaired: As in `folder_pair`.
        max_failure_rate: As in `folder_pair`.

    Returns:
        The pairs, sorted by stem.

    Raises:
        ValueError: The folders are missing, or as in `folder_pair`.
    """
    root = Path(root)
    if not ((root / split).is_dir() and (root / f"{split}annot").is_dir()):
        raise _missing(root, [f"{split} with {split}annot"])
    return folder_pair(
        root / split,
        root / f"{split}annot",
        CAMVID_CLASSES,
        id_map={CAMVID_VOID: IGNORE_INDEX},
        exclude=exclude,
        unpaired=unpaired,
        max_failure_rate=max_failure_rate,
    )


def _missing(root: Path, layouts: Sequence[str]) -> ValueError:
    here = sorted(p.name for p in root.iterdir()) if root.is_dir() else ["no such folder"]
    return ValueError(
        f"expected below {root} the folders {', or '.join(layouts)}; found {first_names(here)}."
    )
