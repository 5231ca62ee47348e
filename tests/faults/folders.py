"""Small finished folders of every kind, made once for a campaign."""

import contextlib
import gc
import importlib.util
import os
import pkgutil
import shutil
import sys
from pathlib import Path

import numpy as np

from tests.faults.trial import Ended, fmce, forked

RUN = (
    "data.image_size=8",
    "data.shift=1",
    "model.options={width: 4}",
    "train.epochs=6",
    "train.batch_size=256",
    "train.learning_rate=5e-3",
    "phases.num_phases=3",
    "phases.threshold=0.1",
    "phases.smoothing=none",
    "phases.window=2",
    "phases.if_not_converged=last",
    "fmce_net.epochs=1",
    "fmce_net.storage=stored",
    "fmce_net.shuffle_buffer=1024",
)
MATCHING = (
    "data={height: 16, width: 24, labelled: 8, unlabelled: 8, held_out: 4, validation: 4}",
    "teacher_steps={steps: 4, batch_size: 4, interval: 2}",
    "student_steps={steps: 4, batch_size: 4, interval: 2}",
    "student.options={encoder_options: {channels: [4, 4, 4, 8], stem_width: 4}}",
    "arms=[function_matching]",
    "seeds=[1]",
)


def settings(values: tuple[str, ...]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def has_video() -> bool:
    """Return whether videos can be read and written here; tries on them are left out where they cannot."""
    return importlib.util.find_spec("av") is not None


def must(arguments: list[object]) -> None:
    ended = fmce(arguments, timeout=600)
    assert ended.code == 0, (arguments, ended.err[-2000:])


def copy_of_run(work: Path, folder: Path) -> Path:
    """Copy the run that a campaign makes once, in its folder for work."""
    whole, made = work / "whole-run", work / "whole-run-made"
    if not made.exists():
        shutil.rmtree(whole, ignore_errors=True)
        make_run(whole)
        made.touch()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    return folder


def make_run(folder: Path) -> Path:
    """A run with phases, stored maps, an FMCE-Net, an evaluation and Grad-CAM."""
    must(["train", "--out", folder, *settings(RUN)])
    must(["extract", folder])
    must(["train-net", folder])
    must(["evaluate", folder])
    must(["explain", folder, "--images", "2"])
    return folder


def make_experiment(folder: Path) -> Path:
    """A finished experiment of segmentation, with a folder of images beside it."""
    from PIL import Image

    must(["distill", "--out", folder, "--jobs", "1", *settings(MATCHING)])
    images = folder.with_name("images")
    images.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "a.png")
    return folder


def make_video(path: Path, frames: int = 40) -> Path:
    """A short clip of moving noise."""
    import av

    draw = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for _ in range(frames):
            image = draw.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def make_shards(folder: Path) -> Path:
    """Shards of one clip, which lies beside them."""
    video = make_video(folder.with_name("clip.mp4"))
    must(
        ["frames", video, "--every", "1", "--shard-frames", "20", "--workers", "1", "--out", folder]
    )
    return folder


OWN_LOOP = "own loop"


def own_loop(folder: Path) -> Ended:
    """Train in a loop of its own in a fork, or resume."""
    from tests.faults.own_loop import train

    def run() -> int:
        try:
            train(folder)
        except (ValueError, OSError) as error:  # as a user of the loop would read it
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
        return 0

    return forked(run)


def make_recorded(folder: Path) -> Path:
    """A recorded training of a loop of its own, with phases and an FMCE-Net."""
    ended = own_loop(folder)
    assert ended.code == 0, ended.err
    model = ["--model", "tests.faults.own_loop:build", "--data", "tests.faults.own_loop:data"]
    must(["train-net", folder, *model, "--layer", "1", "--set", "epochs=1"])
    return folder


# What the commands import when they need it; forks would import it again for each try.
_LIBRARIES = (
    *(
        "PIL.Image",
        "PIL.JpegImagePlugin",
        "PIL.PngImagePlugin",
        "av",
        "captum.attr",
        "jinja2",
        "pandas",
    ),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "matplotlib.pyplot"),
    *("rich.live", "rich.panel", "rich.progress", "rich.table", "scipy.optimize", "scipy.stats"),
    *("sklearn.datasets", "sklearn.metrics", "sklearn.model_selection", "tensorboard", "timm"),
    *(
        "torchvision.models",
        "tyro",
        "tyro._cli",
        "tyro.extras",
        "zarr",
        "zarr.codecs",
        "zarr.storage",
    ),
)


def preload() -> None:
    """Import what the commands import, so that forks share it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    import fmce

    torch.set_num_threads(1)
    modules = (m.name for m in pkgutil.walk_packages(fmce.__path__, "fmce."))
    ours = (name for name in modules if not name.endswith("__main__"))
    for name in (*ours, *_LIBRARIES):
        # What is not installed, such as an extra's callbacks, is what a command would miss too.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy what it shares
