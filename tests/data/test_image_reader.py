"""The one reader of images: orientation, bit depths, modes and damage, against Pillow and known arrays."""

import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from fmce.data.frames.pool import decode
from fmce.data.image_reader import (
    DAMAGE_ERRORS,
    WrongMaskError,
    image_size,
    read_ids,
    read_rgb,
)
from tests.inputs import INPUTS

NOISE = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def file_bytes(array, kind, **options):
    stored = BytesIO()
    Image.fromarray(array).save(stored, kind, **options)
    return stored.getvalue()


def orientation(value):
    exif = Image.Exif()
    exif[0x112] = value
    return exif


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_every_orientation_of_every_kind_is_shown_upright(tmp_path, ending, value):
    exif = orientation(value) if ending == "tif" else orientation(value).tobytes()
    path = save(tmp_path / f"a.{ending}", NOISE, exif=exif)
    with Image.open(path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_rgb(path), shown)
    assert image_size(path) == shown.shape[1::-1] == ((64, 40) if value < 5 else (40, 64))


def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path):
    raw = file_bytes(NOISE, "PNG")
    exif = orientation(6).tobytes().removeprefix(b"Exif\0\0")
    path = tmp_path / "a.png"
    path.write_bytes(raw[:-12] + chunk(b"eXIf", exif) + raw[-12:])
    np.testing.assert_array_equal(read_rgb(path), np.rot90(NOISE, -1))
    assert image_size(path) == (40, 64)


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x09", b"Exif\0\0xxxxxxxxxxx"]
)
def test_exif_without_a_readable_orientation_turns_nothing(exif):
    np.testing.assert_array_equal(read_rgb(file_bytes(NOISE, "PNG", exif=exif)), NOISE)


def test_a_phones_picture_is_upright():
    path = INPUTS / "images/01-exif6-yolo/images/train/train0.jpg"
    with Image.open(path) as image:
        assert image.size == (96, 64)
        stored = np.asarray(image.convert("RGB"))
    assert image_size(path) == (64, 96)
    np.testing.assert_array_equal(read_rgb(path), np.rot90(stored, -1))
    # Pools read the same way, from paths and from bytes.
    for source in (str(path), path.read_bytes()):
        np.testing.assert_array_equal(decode(source, 96, 64), read_rgb(path))


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_the_upper_half_of_16_bit_grey_is_kept(tmp_path, ending, order):
    grey = np.random.default_rng(1).integers(0, 2**16, (5, 7)).astype(order)
    grey[0, :2] = 0, 2**16 - 1
    image = read_rgb(save(tmp_path / f"a.{ending}", grey))
    np.testing.assert_array_equal(image, np.stack([grey >> 8] * 3, axis=2))
    assert (image[0, 0, 0], image[0, 1, 0]) == (0, 255)


def test_a_16_bit_png_is_a_picture_and_not_white():
    image = read_rgb(INPUTS / "images/04-16bit/images/train/train0.png")
    assert (image.min(), image.max()) == (20035 >> 8, 49466 >> 8)


def test_floats_from_0_to_1_are_scaled_and_others_refused(tmp_path):
    values = np.array([[0, 0.5, 1]], np.float32)
    assert read_rgb(save(tmp_path / "a.tif", values))[0, :, 0].tolist() == [0, 128, 255]
    for wrong in (values * 255, values - 1, values * np.nan):
        with pytest.raises(ValueError, match="expected floats in 0 … 1, got"):
            read_rgb(save(tmp_path / "b.tif", wrong))
    with pytest.raises(ValueError, match="32-bit integers"):
        read_rgb(save(tmp_path / "c.tif", values.astype(np.int32)))


MODES = {"png": ("1", "L", "LA", "P", "RGBA"), "tif": ("CMYK", "YCbCr", "LA"), "jpg": ("L", "CMYK")}


@pytest.mark.parametrize(("ending", "mode"), [(e, m) for e, modes in MODES.items() for m in modes])
def test_other_modes_are_read_as_pillow_converts_them(tmp_path, ending, mode):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(NOISE).convert(mode).save(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_rgb(path), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparent_colours_gives_its_colours(tmp_path):
    picture = Image.fromarray(NOISE).quantize(16)
    picture.save(tmp_path / "a.png", transparency=bytes(range(16)))
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), expected)


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"keep_rgb": True}]
)
@pytest.mark.parametrize("size", [(1, 1), (17, 16), (40, 64)])
def test_jpegs_have_the_pixels_that_pillow_decodes(options, size):
    raw = file_bytes(NOISE[: size[0], : size[1]], "JPEG", **options)
    with Image.open(BytesIO(raw)) as image:
        np.testing.assert_array_equal(read_rgb(raw), np.asarray(image.convert("RGB")))


def test_a_jpeg_whose_layout_libjpegs_simple_interface_refuses_is_read():
    stored = BytesIO()
    Image.fromarray(NOISE).convert("CMYK").save(stored, "JPEG", subsampling=1)
    with Image.open(stored) as image:
        np.testing.assert_array_equal(read_rgb(stored.getvalue()), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_an_animation_gives_its_first_picture(tmp_path, kind):
    first, second = (Image.new("RGB", (8, 8), (v, v, v)) for v in (10, 200))
    lossless = {"lossless": True} if kind == "webp" else {}
    first.save(tmp_path / f"a.{kind}", save_all=True, append_images=[second], **lossless)
    assert (read_rgb(tmp_path / f"a.{kind}") == 10).all()


@pytest.mark.parametrize("name", ["cut_eoi", "hole", "noeoi", "zerotail_eoi"])
def test_a_jpeg_that_is_damaged_inside_counts_as_damaged(name):
    with pytest.raises(OSError, match=r"damaged inside \((Corrupt JPEG data|Premature end)"):
        read_rgb(INPUTS / f"images/15-jpeg/{name}.jpg")
    assert read_rgb(INPUTS / "images/15-jpeg/ok.jpg").shape == (360, 640, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_a_file_cut_short_is_an_error_not_half_an_image(kind, share):
    raw = file_bytes(NOISE.repeat(8, axis=0), kind)
    with pytest.raises(DAMAGE_ERRORS):
        read_rgb(raw[: int(share * len(raw))])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_png_with_altered_bytes_is_an_error(share):
    raw = bytearray(file_bytes(NOISE, "PNG"))
    raw[int(share * len(raw))] ^= 0xFF
    with pytest.raises(DAMAGE_ERRORS):
        read_rgb(bytes(raw))


def test_a_header_of_absurd_size_is_refused_before_decoding():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(Image.DecompressionBombError, match="3600000000 pixels"):
        read_rgb(raw)


@pytest.mark.parametrize(("raw", "said"), [(b"", "an empty file"), (b"text", "no image")])
def test_what_is_no_image_is_named_so(raw, said):
    with pytest.raises(OSError, match=f"^{said}$"):
        read_rgb(raw)


def test_palette_masks_give_indices_and_16_bit_masks_are_taken(tmp_path):
    ids = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    palette = Image.fromarray(ids).convert("P")
    palette.putdata(ids.ravel().tolist())
    palette.putpalette(list(range(255, -1, -1)) * 3)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "p.png"), ids)
    for kind in (np.uint16, np.int32, np.float32):
        ending = "png" if kind is np.uint16 else "tif"
        np.testing.assert_array_equal(
            read_ids(save(tmp_path / f"w.{ending}", ids.astype(kind))), ids
        )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_samples_of_few_bits_are_ids_as_they_are_stored(tmp_path, bits):
    per_byte, most = 8 // bits, 2**bits - 1
    ids = np.resize(np.arange(most + 1), (4, per_byte * 3))
    rows = [
        b"\0"
        + bytes(sum(int(v) << (8 - bits * (i + 1)) for i, v in enumerate(group)) for group in row)
        for row in ids.reshape(4, 3, per_byte)
    ]
    header = struct.pack(">IIBBBBB", ids.shape[1], 4, bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(rows))
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(read_ids(path), ids)
    np.testing.assert_array_equal(read_rgb(path)[..., 0], ids * (255 // most))


def test_masks_turn_as_their_images_do_and_equal_channels_are_one(tmp_path):
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    turned = save(tmp_path / "a.png", ids, exif=orientation(6).tobytes())
    np.testing.assert_array_equal(read_ids(turned), np.rot90(ids, -1))
    grey = save(tmp_path / "a.webp", np.stack([ids] * 3, axis=2), lossless=True)
    np.testing.assert_array_equal(read_ids(grey), ids)


def test_what_holds_no_ids_is_refused_as_a_mask(tmp_path):
    with pytest.raises(WrongMaskError, match=r"mode RGB.*colour\.png.*colour map"):
        read_ids(save(tmp_path / "colour.png", NOISE))
    for name, values in (("large", [[0, 300]]), ("half", [[0, 0.5]]), ("below", [[0, -1]])):
        kind = np.int32 if name != "half" else np.float32
        with pytest.raises(WrongMaskError, match=rf"whole class ids in 0 … 255, got .* {tmp_path}"):
            read_ids(save(tmp_path / f"{name}.tif", np.array(values, kind)))
    with pytest.raises(WrongMaskError, match="expected a lossless mask, got a JPEG"):
        read_ids(save(tmp_path / "lossy.png", NOISE[..., 0], format="JPEG"))


def test_a_pipe_and_a_file_of_many_gigabytes_are_damage(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", 2**40)
    for path in tmp_path.iterdir():
        for read in (read_rgb, read_ids, image_size):
            with pytest.raises(
                DAMAGE_ERRORS, match=f"{path.name} (is no regular file|has 1099511627776 bytes)"
            ):
                read(path)


@pytest.mark.parametrize("read", [read_rgb, read_ids, image_size])
def test_what_pillow_reads_with_another_program_is_no_image(tmp_path, read):
    """An EPS would start Ghostscript, with code that the file brings along."""
    Image.new("RGB", (9, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(OSError, match="no image"):
        read(tmp_path / "a.png")


def peak_of_reading(path):
    """Return by how many bytes a new Python grew while it read a file; `getrusage` would count its parent's too."""
    code = (
        "import re, sys; from pathlib import Path; from fmce.data.image_reader import read_rgb\n"
        "peak = lambda: 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = peak(); read_rgb(Path(sys.argv[1])); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.parametrize(
    ("name", "mode", "most"),
    [
        ("a.png", "RGB", 9),
        ("a.png", "P", 6),
        ("a.png", "RGBA", 9),
        ("a.jpg", "RGB", 4),
        ("a.jpg", "CMYK", 9),
        ("a.tif", "RGB", 12),
        ("a.bmp", "RGB", 12),
        ("a.tif", "F", 14),
        ("a.webp", "RGB", 18),
    ],
)
def test_reading_holds_few_copies(tmp_path, name, mode, most):
    """In bytes a pixel: Pillow's own picture (4), the result (3), the file, and what the decoder holds."""
    Image.new(mode, (4000, 4000)).save(tmp_path / name)
    assert peak_of_reading(tmp_path / name) < most * 4000 * 4000


@pytest.mark.parametrize(
    ("ending", "width", "most"), [("webp", 6_100, 25), ("bmp", 6_100, 25), ("png", 12_200, 50)]
)
def test_more_pixels_than_half_a_gigabyte_allows_are_refused_by_the_header(
    tmp_path, ending, width, most
):
    path = tmp_path / f"a.{ending}"
    Image.new("L", (width, 4_100)).save(path)
    text = f"{width} × 4100 pixels, expected at most {most}000000"
    for source in (path, path.read_bytes()):
        with pytest.raises(OSError, match=text):
            read_rgb(source)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "F", "RGBA", "CMYK", "LAB", "YCbCr"])
def test_strips_give_the_picture_of_the_whole(tmp_path, monkeypatch, mode):
    pixels = Image.fromarray(NOISE).convert("P" if mode == "P" else "RGB")
    if mode in ("I;16", "F"):
        grey = np.asarray(pixels.convert("L"))
        pixels = Image.fromarray(
            grey.astype(np.uint16) * 257 if mode == "I;16" else grey / np.float32(255)
        )
    elif mode == "LAB":
        pixels = ImageCms.profileToProfile(
            pixels, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    elif mode != "P":
        pixels = pixels.convert(mode)
    pixels.save(tmp_path / "a.tif")
    whole = read_rgb(tmp_path / "a.tif")
    monkeypatch.setattr("fmce.data.image_reader._STRIP_PIXELS", 3 * NOISE.shape[1])
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif"), whole)


def test_more_pixels_than_pillow_warns_of_are_refused(tmp_path, monkeypatch):
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 71)
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(OSError, match="9 × 8 pixels, expected at most 71"),
    ):
        read_rgb(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_rgb(tmp_path / "a.png").shape == (8, 9, 3)
