"""Reading image files so that one damaged file never ends an epoch: counted, named, substituted.

What labelled and unlabelled folders share: listing, the failure rate above which an error names the
files, the deterministic substitute, and lists of stems to leave out. `image_reader.py` decodes.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fmce.console.log import logger
from fmce.data.image_reader import DAMAGE_ERRORS
from fmce.files import read_text

Item = TypeVar("Item")
Stems = Path | str | Iterable[str]
"""Stems of images: a text file with one per line, or an iterable."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg"),
    *(".wmv", ".flv", ".3gp"),
)
_NAMED_FILES = 5


class UnreadableDataError(ValueError):
    """Too many files of a data set cannot be read."""


def read_stems(exclude: Stems) -> frozenset[str]:
    """Read the stems to leave out from a text file, one per line, or from an iterable.

    In a file "#" at the start of a line or behind a blank starts a comment. Folders and endings of images and
    videos are dropped, so lists of file names work too, with either separator.

    Raises:
        ValueError: If the text file does not exist, or is in an encoding that nothing in it marks.

    >>> sorted(read_stems(["0001.jpg", "0002", ""]))
    ['0001', '0002']
    """
    if isinstance(exclude, str | Path):
        path = Path(exclude)
        if not path.is_file():
            raise ValueError(f"expected a text file with one stem per line, found none at {path}")
        lines = read_text(path, "one stem per line").splitlines()
        exclude = [re.split(r"(?:^|\s)#", line, maxsplit=1)[0] for line in lines]
    return frozenset(stem_of(name) for name in exclude if name.strip())


def stem_of(name: str) -> str:
    r"""Return the name of a file without folders and the ending of images and videos, in one spelling of accents.

    >>> stem_of("images/0001.v2.jpg"), stem_of("0001.v2"), stem_of("cam\\0002.jpg ")
    ('0001.v2', '0001.v2', '0002')
    """
    name = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1].strip())
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES else name


def walk_files(root: Path, seen: set[str] | None = None) -> Iterator[Path]:
    """Yield the files of a folder, nested and linked ones included, hidden ones not, in any order.

    Args:
        root: The folder.
        seen: Real paths of folders listed before, which are skipped; extended by those listed.
    """
    seen = set() if seen is None else seen
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a parent would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def list_images(
    root: Path,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    *,
    seen: set[str] | None = None,
    aloud: bool = False,
) -> list[Path]:
    """Return the images of a folder that `walk_files` finds, sorted by path inside it.

    Args:
        root: The folder.
        suffixes: Endings of the files wanted, in lower case.
        seen: As in `walk_files`.
        aloud: Whether to log how many other files the folder holds, by their endings.

    Raises:
        ValueError: If the folder does not exist.
    """
    if not root.is_dir():
        raise ValueError(f"expected a folder of images, found none at {root}")
    found: list[Path] = []
    others: Counter[str] = Counter()
    for path in walk_files(root, seen):
        if path.name.lower().endswith(suffixes):
            found.append(path)
        else:
            others[path.suffix or path.name] += 1
    if aloud and others:
        counts = first_names([f"{count} {ending}" for ending, count in others.most_common()])
        logger.info("%s: left out by their ending: %s", root, counts)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def first_names(names: Sequence[str], limit: int = _NAMED_FILES, *, separator: str = ", ") -> str:
    """Join the first names and the number of the others.

    >>> first_names(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    shown = separator.join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


@dataclass
class ReadFailures:
    """Counts of reads and failures of one data set; a failing file is logged once.

    Attributes:
        max_rate: Failures per read, in [0, 1], above which reading raises.
        min_files: Different damaged files below which it never raises, whatever the rate: one damaged
            file of a small set, read every epoch, is no reason to stop.
        instead: What becomes of a failing item, for the warning.
        reads: Files or pairs tried so far.
        failures: Tries that failed so far.
    """

    max_rate: float = 0.01
    min_files: int = 5
    instead: str = "the next readable item stands in"
    reads: int = field(default=0, init=False)
    failures: int = field(default=0, init=False)
    _failed: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.max_rate <= 1 or self.min_files < 1:
            raise ValueError(
                "expected max_rate in [0, 1] and min_files of at least 1, got "
                f"{self.max_rate} and {self.min_files}"
            )

    @property
    def failed_items(self) -> list[int]:
        """Indices of the items that could not be read, ascending."""
        return sorted(self._failed)

    def succeeded(self) -> None:
        """Count a successful read."""
        self.reads += 1

    def failed(self, index: int, error: Exception, name_of: Callable[[int], str]) -> None:
        """Count a failure, log its file once, and raise above the rate.

        Raises:
            UnreadableDataError: If at least `min_files` files are damaged and more than `max_rate` of
                all reads failed.
        """
        self.reads += 1
        self.failures += 1
        if index not in self._failed:
            self._failed.add(index)
            logger.warning("cannot read %s: %s; %s", name_of(index), error, self.instead)
        if len(self._failed) >= self.min_files and self.failures > self.max_rate * self.reads:
            names = first_names([name_of(i) for i in self.failed_items])
            raise UnreadableDataError(
                f"{self.failures} of {self.reads} reads failed, more than {self.max_rate:.2%}: {names}; "
                f"repair or exclude these files, or raise the rate. Last error: {error}"
            ) from error


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
        read: Reads one item; `DAMAGE_ERRORS` count as damage.
        failures: Counts and, above its rate, raises.
        name_of: Names an item for messages.

    Raises:
        IndexError: If the index is out of range.
        UnreadableDataError: If more reads than the rate failed, or no item is readable.
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
        f"none of the {num_items} items can be read, including {name_of(index % num_items)}"
    )
