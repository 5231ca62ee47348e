"""The one reader of image files: a file gives the upright uint8 picture that a viewer shows, or an error.

Whatever is damaged inside counts as damage, also where a decoder would fill the gap and only warn.
"""

import io
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fmce.digests import check_regular

ImageArray = NDArray[np.uint8]

# What is raised for files that are cut off, empty, damaged, of another type or absurdly large.
DAMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # an error where the program turns warnings into errors
)
# libjpeg's warnings of lost or altered pixels; its others concern the header alone.
_LOST_PIXELS = re.compile(r"Corrupt JPEG data|Premature end|Inconsistent progression")
_JPEG = ("JPEG", "MPO")
# By content, whatever the ending. Pillow reads more formats; EPS would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_ORIENTATION = 0x112
# PNG stores grey of 2 and 4 bits as samples that Pillow spreads over 0 … 255.
_SPREAD = {"L;2": 85, "L;4": 17}

# Within these bounds decoding takes less than half a gigabyte. The formats named are decoded with more copies.
_MOST_BYTES, _MOST_PIXELS = 2**28, 50_000_000
_FEWER_PIXELS = {"WEBP": 25_000_000, "BMP": 25_000_000, "TIFF": 25_000_000}
_STRIP_PIXELS = 2**20


class WrongMaskError(ValueError):
    """A file decodes but holds no class ids of its data set."""


def read_rgb(source: Path | str | bytes) -> ImageArray:
    """Decode an image to uint8 (H,W,3), upright as its EXIF orientation demands.

    Of 16-bit samples the upper 8 bits are kept, floats in 0 … 1 are scaled to 0 … 255, transparency is dropped, and
    an animation gives its first picture.

    Args:
        source: The file, or its bytes.

    Raises:
        OSError: If the file is missing, cut off, damaged inside or no image (or another of `DAMAGE_ERRORS`).
    """
    with _opened(source) as (image, file):
        return _decode(image, file)


def read_square(
    source: Path | str | bytes, size: int, most_pixels: float = math.inf
) -> ImageArray | None:
    """Decode an image as `read_rgb` does, and resize it to uint8 (size, size, 3), bilinear, not in proportion.

    Returns:
        The square; None, without decoding, if the image has more than `most_pixels`.
    """
    with _opened(source) as (image, file):
        if image.width * image.height > most_pixels:
            return None
        whole = Image.fromarray(_decode(image, file))
        return np.array(whole.resize((size, size), Image.Resampling.BILINEAR))


def _decode(image: Image.Image, file: io.BytesIO) -> ImageArray:
    turn = _orientation(image, file)
    if image.format in _JPEG:
        return _upright(_decode_jpeg(image, file), turn)
    _refuse_damaged_png(image, file)
    return _upright(_to_rgb(image), turn)


def read_ids(path: Path) -> ImageArray:
    """Decode a mask of class ids to uint8 (H,W), upright; palette images give their indices.

    Raises:
        WrongMaskError: If the channels of the file differ (a colour map), or values are not integers in 0 … 255.
        OSError: If the file is missing, cut off, damaged inside or no image (or another of `DAMAGE_ERRORS`).
    """
    with _opened(path) as (image, file):
        turn = _orientation(image, file)
        _refuse_damaged_png(image, file)
        # Read before decoding, which forgets how samples were stored.
        tiles = getattr(image, "tile", [])
        spread = _SPREAD.get(str(tiles[0].args), 1) if tiles else 1
        if image.format in _JPEG:
            raise WrongMaskError(
                f"expected a lossless mask, got a JPEG in {path}; save its ids as PNG"
            )
        is_webp = image.format == "WEBP"
        ids = _by_strips(image, lambda strip: _ids_of(strip, path, is_webp))
    return _upright(ids // spread, turn)


def image_size(path: Path) -> tuple[int, int]:
    """Return width and height of the upright image; only headers are read.

    Raises:
        OSError: If the file is missing or no image (or another of `DAMAGE_ERRORS`).
    """
    check_regular(path, _MOST_BYTES)
    with open(path, "rb") as file, _image_in(file) as image:
        turned = _orientation(image, file) > 4
        return (image.height, image.width) if turned else image.size


def _bytes_of(path: Path) -> bytes:
    """Read a file; a pipe would be waited for, and one of many gigabytes fill the memory."""
    check_regular(path, _MOST_BYTES)
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > _STRIP_PIXELS:
            with _image_in(file) as image:
                _check_pixels(image)
            file.seek(0)
        return file.read()


@contextmanager
def _opened(source: Path | str | bytes) -> Iterator[tuple[Image.Image, io.BytesIO]]:
    if not isinstance(source, bytes):
        source = _bytes_of(Path(source))
    # In memory: the header, the check and the decoder each go through the file.
    file = io.BytesIO(source)
    with _image_in(file) as image:
        _check_pixels(image)
        yield image, file


def _image_in(file: io.BufferedReader | io.BytesIO) -> Image.Image:
    """Read the header of an image."""
    try:
        return Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:  # its text would name an object in memory
        is_empty = file.seek(0, io.SEEK_END) == 0
        raise OSError("an empty file" if is_empty else "no image") from error


def _check_pixels(image: Image.Image) -> None:
    if Image.MAX_IMAGE_PIXELS is None:  # the user has lifted the bound
        return
    most = min(Image.MAX_IMAGE_PIXELS, _FEWER_PIXELS.get(image.format or "", _MOST_PIXELS))
    if image.width * image.height > most:
        raise OSError(f"{image.width} × {image.height} pixels, expected at most {most}")


def _orientation(image: Image.Image, file: io.BufferedReader | io.BytesIO) -> int:
    """Return the EXIF orientation 1 … 8; 1 where there is none, and for TIFF, which Pillow turns itself.

    Pillow's own reader of EXIF decodes PNGs to their end and warns of tags that do not matter here.
    """
    exif = image.info.get("exif")
    if exif is None and image.format == "PNG":
        exif = _late_exif(file)
    if not exif or image.format == "TIFF":
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = ">" if tiff[:2] == b"MM" else "<"
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, place)
            if tag == _ORIENTATION:
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:  # cut off before the orientation
        pass
    return 1


def _late_exif(file: io.BufferedReader | io.BytesIO) -> bytes | None:
    """Return the chunk eXIf of a PNG, which may stand behind its pixels."""
    place, found = file.tell(), None
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            found = file.read(length)
            break
        file.seek(length + 4, io.SEEK_CUR)
    file.seek(place)
    return found


def _upright(pixels: NDArray[np.uint8], orientation: int) -> ImageArray:
    """Return pixels (H,W,…) turned and mirrored as an EXIF orientation demands."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def _decode_jpeg(image: Image.Image, file: io.BytesIO) -> ImageArray:
    """Decode a JPEG; libjpeg's warnings, which Pillow does not pass on, are errors."""
    is_cmyk = image.mode == "CMYK"
    try:
        pixels: ImageArray = simplejpeg.decode_jpeg(file.getvalue(), "CMYK" if is_cmyk else "RGB")
        if not is_cmyk:
            return pixels
        del pixels  # Pillow knows which programs store the four colours inverted.
    except ValueError as error:
        if _LOST_PIXELS.search(str(error)):
            raise OSError(f"damaged inside ({error})") from error
        # Otherwise a rare layout, which libjpeg's simple interface does not read.
    return _to_rgb(image)


def _refuse_damaged_png(image: Image.Image, file: io.BytesIO) -> None:
    """Compare the checksums of a PNG, which decoding does not do for the pixels."""
    if image.format == "PNG":
        with Image.open(io.BytesIO(file.getvalue()), formats=("PNG",)) as other:
            other.verify()


def _by_strips(image: Image.Image, read: Callable[[Image.Image], ImageArray]) -> ImageArray:
    """Return what `read` makes of an image, a few rows at a time, since Pillow copies on the way to NumPy."""
    image.load()
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    if rows >= height:
        return np.array(read(image))
    first = read(image.crop((0, 0, width, rows)))
    pixels: ImageArray = np.empty((height, *first.shape[1:]), np.uint8)
    pixels[:rows] = first
    for top in range(rows, height, rows):
        below = min(top + rows, height)
        pixels[top:below] = read(image.crop((0, top, width, below)))
    image.close()  # its pixels are not needed beside these
    return pixels


def _ids_of(image: Image.Image, path: Path, is_webp: bool) -> ImageArray:
    """Return the ids of a decoded mask, as stored."""
    ids = np.asarray(image)
    if is_webp and (ids[..., :1] == ids[..., :3]).all():
        ids = ids[..., 0]  # WebP has no single channel
    if ids.ndim != 2:
        raise WrongMaskError(
            f"expected a mask of one channel holding class ids, got mode {image.mode} in {path}; "
            "is it a colour map?"
        )
    if ids.dtype != np.uint8:  # 1-bit, 16-bit or float files
        if not (np.isfinite(ids) & (ids == np.floor(ids)) & (ids >= 0) & (ids <= 255)).all():
            raise WrongMaskError(
                f"expected whole class ids in 0 … 255, got {ids.min()} to {ids.max()} in {path}"
            )
        ids = ids.astype(np.uint8)
    return ids


def _to_rgb(image: Image.Image) -> ImageArray:
    """Return a decoded image as `read_rgb` does, not turned."""
    return _by_strips(image, _rgb_of)


def _rgb_of(image: Image.Image) -> ImageArray:
    if image.mode.startswith("I;16"):
        return _grey((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"expected floats in 0 … 1, got {values.min()} to {values.max()}; scale them, or save 8 or 16 bits"
            )
        return _grey((values * 255).round().astype(np.uint8))
    if image.mode == "I":
        raise ValueError("expected samples of 8 or 16 bits or floats, got 32-bit integers")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # to RGB at once, Pillow would warn of transparent colours
    return np.asarray(image.convert("RGB"))


def _grey(pixels: NDArray[np.uint8]) -> ImageArray:
    return np.repeat(pixels[..., None], 3, axis=2)
