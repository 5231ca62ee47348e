"""What data sets of labelled image files share, for segmentation and for detection."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from fmce.data.image_files import ReadFailures, read_or_substitute, stem_of

_Item = TypeVar("_Item")


@dataclass(eq=False, kw_only=True)
class LabelledFiles(Generic[_Item]):
    """Images and their labels, read on access; the next readable item stands in for a damaged one.

    Attributes:
        name: What messages call the set.
        image_paths: Files, in order; at least one.
        class_names: Names of the class ids 0 … C − 1.
        max_failure_rate: Fraction of failed reads, in [0, 1], above which reading raises.
        failures: Counts of reads and failures.
    """

    name: str
    image_paths: Sequence[Path]
    class_names: Sequence[str]
    max_failure_rate: float = 0.01
    failures: ReadFailures = field(init=False)
    per_image: ClassVar[tuple[str, ...]] = ("image_paths",)
    """Fields with one value per image."""

    def __post_init__(self) -> None:
        """Check the set; nothing is read yet."""
        if not self.image_paths:
            raise ValueError(f"{self.name}: expected at least one labelled image, found none")
        self.class_names = tuple(self.class_names)
        self.failures = ReadFailures(self.max_failure_rate)

    def __len__(self) -> int:
        return len(self.image_paths)

    @property
    def stems(self) -> tuple[str, ...]:
        """Stems of the images, in order."""
        return tuple(stem_of(path.name) for path in self.image_paths)

    @property
    def damaged(self) -> tuple[str, ...]:
        """Images that could not be read so far, or whose labels could not."""
        return tuple(self.image_name(i) for i in self.failures.failed_items)

    def image_name(self, index: int) -> str:
        """Return the path of an image, for messages."""
        return str(self.image_paths[index])

    def __getitem__(self, index: int) -> _Item:
        """Read one item, or the next readable one in its place.

        Raises:
            IndexError: If the index is out of range.
            UnreadableDataError: If more reads than `max_failure_rate` failed.
        """
        return read_or_substitute(index, len(self), self.read, self.failures, self.image_name)

    def read(self, index: int) -> _Item:
        """Read one item; a damaged file raises one of `image_reader.DAMAGE_ERRORS`."""
        raise NotImplementedError

    def select(self, indices: Iterable[int]) -> Self:
        """Return the set of the given items, with its own counts of failures."""
        chosen = list(indices)
        values = {name: [getattr(self, name)[i] for i in chosen] for name in self.per_image}
        return self._with(**values)

    def tolerating(self, max_failure_rate: float) -> Self:
        """Return the set with another `max_failure_rate`, and its own counts of failures."""
        return self._with(max_failure_rate=max_failure_rate)

    def _with(self, **changes: Any) -> Self:
        return replace(self, **changes)
