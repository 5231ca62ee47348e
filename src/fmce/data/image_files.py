"""Reading image files so that one damaged file never ends an epoch: counted, named, replaced.

What labelled and unlabelled folders share: decoding, the failure rate beyond which an error names
the files, the deterministic substitute, and lists of stems to leave out.
"""

import logging
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import get_worker_info

ImageArray = NDArray[np.uint8]
Item = TypeVar("Item")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# What Pillow raises for files that are cut off, empty, of another type or absurdly large.
DAMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
_NAMED_FILES = 5
# Loader workers have a slot each, so that no two processes write to one; ids beyond it share the
# last.
_SLOTS = 256

_log = logging.getLogger(__name__)


class UnreadableDataError(ValueError):
    """Too many files of a data set cannot be read."""


class WrongMaskError(ValueError):
    """A file decodes but holds no class ids of its data set."""


def read_rgb(path: Path) -> ImageArray:
    """Decode an image to uint8 (H, W, 3).

    Raises:
        OSError: If the file is missing, cut off or no image (other errors of Pillow's decoders are
            possible).
    """
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def read_ids(path: Path) -> ImageArray:
    """Decode a mask of class ids to uint8 (H, W); palette images give their indices.

    Raises:
        WrongMaskError: If the file has several channels (a colour map) or values outside 0 … 255.
        OSError: If the file is missing, cut off or no image.
    """
    with Image.open(path) as image:
        ids = np.array(image)
        mode = image.mode
    if ids.ndim != 2:
        raise WrongMaskError(
            f"expected a mask of one channel holding class ids, got mode {mode} in {path}; "
            "is it a colour map?"
        )
    if ids.dtype != np.uint8:  # 1-bit or 16-bit files
        if ids.min() < 0 or ids.max() > 255:
            raise WrongMaskError(f"expected class ids in 0 … 255, got up to {ids.max()} in {path}.")
        ids = ids.astype(np.uint8)
    return ids


def read_stems(exclude: Path | str | Iterable[str]) -> frozenset[str]:
    """Read the stems to leave out.

    They come from a text file with one a line ("#" starts a comment) or from an iterable. An image
    suffix is dropped, so lists of file names work too.

    Raises:
        ValueError: If the text file does not exist.

    >>> sorted(read_stems(["0001.jpg", "0002", ""]))
    ['0001', '0002']
    """
    if isinstance(exclude, str | Path):
        path = Path(exclude)
        if not path.is_file():
            raise ValueError(f"expected a text file with one stem a line, found none at {path}.")
        exclude = [line.partition("#")[0] for line in path.read_text("utf-8").splitlines()]
    return frozenset(stem_of(name.strip()) for name in exclude if name.strip())


def stem_of(name: str) -> str:
    """Return a file's name without folders and image suffix.

    >>> stem_of("images/0001.v2.jpg"), stem_of("0001.v2")
    ('0001.v2', '0001.v2')
    """
    name = name.rsplit("/", 1)[-1]
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def walk_files(root: Path, seen: set[str] | None = None) -> Iterator[Path]:
    """Yield a folder's files, nested ones and links to folders included, hidden ones not.

    Args:
        root: The folder.
        seen: Real paths of folders listed before, which are skipped; extended by those listed.

    Yields:
        Files, in no promised order.
    """
    seen = set() if seen is None else seen
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def list_images(
    root: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, *, seen: set[str] | None = None
) -> list[Path]:
    """List a folder's images as `walk_files` finds them, sorted by path inside it.

    Args:
        root: The folder.
        suffixes: Endings of the files wanted, lower case.
        seen: As in `walk_files`.

    Returns:
        The files.

    Raises:
        ValueError: If the folder does not exist.
    """
    if not root.is_dir():
        raise ValueError(f"expected a folder of images, found none at {root}.")
    found = [path for path in walk_files(root, seen) if path.name.lower().endswith(suffixes)]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def first_names(names: Sequence[str], limit: int = _NAMED_FILES, *, separator: str = ", ") -> str:
    """Return the first names and how many more there are.

    >>> first_names(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    shown = separator.join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


class ReadFailures:
    """Counts reads and failures of one data set and raises beyond a rate.

    The counts live in shared memory: the loader's worker processes and the main process see the
    same ones. A failing file is also logged as a warning the first time.

    Attributes:
        max_rate: Failures over reads above which reading raises.
        min_files: Different damaged files below which it never raises, whatever the rate: one
            damaged file of a small set, met every epoch, is no reason to stop.
        instead: What becomes of a failing item, for the warning.
    """

    def __init__(
        self,
        num_items: int,
        *,
        max_rate: float = 0.01,
        min_files: int = 5,
        instead: str = "the next readable item stands in",
    ) -> None:
        if not 0 <= max_rate <= 1 or min_files < 1:
            raise ValueError(
                "expected max_rate in [0, 1] and min_files of at least 1, got "
                f"{max_rate} and {min_files}."
            )
        self.max_rate = max_rate
        self.min_files = min_files
        self.instead = instead
        self._counts = torch.zeros(2, _SLOTS, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._failed = torch.zeros(max(1, num_items), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def reads(self) -> int:
        """Files or pairs tried so far, in all processes."""
        return int(self._counts[0].sum())

    @property
    def failures(self) -> int:
        """Tries that failed so far, in all processes."""
        return int(self._counts[1].sum())

    @property
    def failed_items(self) -> list[int]:
        """Indices of the items that could not be read, ascending."""
        return [int(i) for i in self._failed.nonzero()[:, 0]]

    def succeeded(self) -> None:
        """Count a read that went well."""
        self._counts[0, _slot()] += 1

    def failed(self, index: int, error: Exception, name_of: Callable[[int], str]) -> None:
        """Count a failure, name the file once, and raise beyond the rate.

        Raises:
            UnreadableDataError: If at least `min_files` files are damaged and more than `max_rate` of
                all reads failed.
        """
        self._counts[:, _slot()] += 1
        if not self._failed[index]:
            self._failed[index] = True
            _log.warning("cannot read %s: %s; %s", name_of(index), error, self.instead)
        reads, failures = self.reads, self.failures
        damaged = self.failed_items if failures > self.max_rate * reads else []
        if len(damaged) >= self.min_files:
            names = first_names([name_of(i) for i in damaged])
            raise UnreadableDataError(
                f"{failures} of {reads} reads failed, more than {self.max_rate:.2%}: {names}. "
                f"Repair or exclude these files, or raise the rate. Last error: {error}"
            ) from error


def _slot() -> int:
    worker = get_worker_info()
    return 0 if worker is None else min(worker.id + 1, _SLOTS - 1)


def read_or_substitute(
    index: int,
    num_items: int,
    read: Callable[[int], Item],
    failures: ReadFailures,
    name_of: Callable[[int], str],
) -> Item:
    """Read an item, or in its place the next readable one (circularly), the same one every time.

    Args:
        index: Item wanted, 0 … num_items − 1, negative counting from the end.
        num_items: Items of the data set.
        read: Reads one item; what Pillow raises for damaged files, and ValueError, count as damage.
        failures: Counts and, beyond its rate, raises.
        name_of: Names an item for messages.

    Returns:
        The item read.

    Raises:
        IndexError: If the index is out of range.
        UnreadableDataError: If beyond the failure rate, or no item is readable.
    """
    if not -num_items <= index < num_items:
        raise IndexError(f"index {index} is out of range for {num_items} items")
    for candidate in range(index % num_items, index % num_items + num_items):
        try:
            item = read(candidate % num_items)
        except DAMAGE_ERRORS as error:
            failures.failed(candidate % num_items, error, name_of)
        else:
            failures.succeeded()
            return item
    raise UnreadableDataError(
        f"none of the {num_items} items can be read, {name_of(index % num_items)} neither."
    )
