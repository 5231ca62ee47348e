"""`fmce explain`: Grad-CAM of a few test images over the phases of a run (FMCE paper, Section V-D)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmce.digests import write_arrays, write_record
from fmce.engine.runtime import Runtime, make_runtime
from fmce.files import wanted_by, write_folder
from fmce.models.grad_cam import CamNumbers, cam_numbers, grad_cam
from fmce.runs.run import Run


def explain(
    run: Run, *, num_images: int = 6, signed: bool = False, runtime: Runtime | None = None
) -> dict[str, Any]:
    """Write `RUN/explain`: raw maps, the numbers beside them and a picture.

    Args:
        run: Has phases and its marker checkpoints.
        num_images: Test images, the first of each class in turn.
        signed: Keep evidence against the class too; the numbers describe the rectified map.
        runtime: Device; memory order and TF32 are those of the run, precision is float32.

    Returns:
        The contents of `numbers.json`.

    Raises:
        FileNotFoundError: If phases or checkpoints are missing.
        ValueError: If there are fewer images.
    """
    setup, epochs = run.setup, run.marker_epochs
    runtime = setup.with_run_memory_format(runtime or make_runtime())
    test = setup.data.test
    if not 1 <= num_images <= len(test):
        raise ValueError(f"expected 1 to {len(test)} images, got {num_images}")
    if (test.targets < 0).any():
        raise ValueError("Grad-CAM needs the class of each test image; give targets with the data")
    index = one_of_each_class(test.targets, num_images)
    targets = test.targets[index].to(runtime.device)
    images = setup.images(test, runtime)(index)  # (B,3,H,W)
    models = (runtime.to_device(run.model(epoch)) for epoch in epochs)
    with runtime.matmul_precision(), wanted_by(setup.origin):
        cams = [grad_cam(m, images, targets, setup.layer, signed=signed).cpu() for m in models]
    maps = torch.stack(cams).numpy()  # (K,B,h,w)
    positive = maps.clip(min=0)
    numbers = [cam_numbers(cam, positive[k - 1] if k else None) for k, cam in enumerate(positive)]
    result = {
        "epochs": epochs,
        "test_index": index.tolist(),
        "classes": [setup.data.class_names[t] for t in targets.tolist()],
        "signed": signed,
        "per_phase": [_means(n) for n in numbers],
        "per_image": [{k: _plain(v) for k, v in n._asdict().items()} for n in numbers],
    }
    _write(run.path / "explain", maps, as_pictures(test.images[index]), result)
    return result


def one_of_each_class(targets: Tensor, count: int) -> Tensor:
    """Return positions of `count` images: the first of each class, then the second of each, and so on.

    >>> one_of_each_class(torch.tensor([2, 0, 0, 1]), 4).tolist()
    [1, 3, 0, 2]
    """
    seen: dict[int, int] = {}
    rounds = []
    for target in targets.tolist():
        rounds.append(seen.get(target, 0))
        seen[target] = rounds[-1] + 1
    order = np.lexsort((targets.numpy(), np.array(rounds)))
    return torch.from_numpy(order[:count].copy())


def as_pictures(images: Tensor) -> np.ndarray[Any, Any]:
    """Return images (B,C,H,W) as uint8; each of floating images is stretched to its own range.

    >>> as_pictures(torch.tensor([[[[-1.0, 1.0]]]])).tolist()
    [[[[0, 255]]]]
    """
    if not images.is_floating_point():
        return images.numpy()
    x = images.float().cpu()
    low, high = (x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True))
    return (255 * (x - low) / (high - low).clamp(min=1e-12)).byte().numpy()


def _means(numbers: CamNumbers) -> dict[str, float | None]:
    known = {name: values[~np.isnan(values)] for name, values in numbers._asdict().items()}
    return {name: float(v.mean()) if len(v) else None for name, v in known.items()}


def _plain(values: np.ndarray[Any, Any]) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]


def _write(
    folder: Path, cams: np.ndarray[Any, Any], images: np.ndarray[Any, Any], result: dict[str, Any]
) -> None:
    from fmce.report.figures import save_figure
    from fmce.report.picture_figures import grad_cam_figure

    figure = grad_cam_figure(images, cams, result["epochs"], result["classes"])

    def fill(target: Path) -> None:
        digest = write_arrays(target / "grad_cam.npz", {"cams": cams, "images": images})
        save_figure(figure, target / "grad_cam.png")
        write_record(target / "numbers.json", {**result, "sha256": digest})

    write_folder(folder, fill)
