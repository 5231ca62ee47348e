"""The maturity statistics of a run folder's checkpoints, on its training images as it trained on them."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.console.progress import Progress
from fmce.engine.runtime import Runtime, make_runtime
from fmce.models.features import eval_mode
from fmce.recorder.module_names import default_modules
from fmce.recorder.statistics import Statistics, module_statistics, twin_statistics
from fmce.runs.own_setup import OwnSetup
from fmce.runs.run import Run
from fmce.scoring.history import ModuleHistory

PROBE = 768
_TOGETHER = 256


def run_histories(
    run: Run,
    modules: Sequence[str] | None = None,
    *,
    probe: int = PROBE,
    view: int = 0,
    epochs: Sequence[int] | None = None,
    runtime: Runtime | None = None,
) -> list[ModuleHistory]:
    """Measure every module of a run at each checkpoint that it keeps.

    Args:
        run: Of `fmce train`, or recorded in a loop of the user's own and opened with its model and images.
        modules: Submodules; None takes those that the training recorded, else the children with parameters.
        probe: How many training images are looked at.
        view: Which draw of images and of their variation.
        epochs: Which checkpoints; None takes all.
        runtime: The device.

    Returns:
        A history per output. Beside the scorer's statistics, `values` has `head_loss`, the log of the network's own
        loss on the same images, where it returns logits.

    Raises:
        ValueError: If a module is unknown or returns no tensor.
        FileNotFoundError: If the run keeps no checkpoint.
    """
    runtime, losses = run.setup.with_run_memory_format(runtime or make_runtime()), run.losses
    if epochs is None:
        epochs = [epoch for epoch in run.epochs if epoch <= len(losses)]
    if not epochs:
        raise FileNotFoundError(f"{run.path} keeps no checkpoint; train it with --keep all")
    images, labels = probe_of(run, probe, view, runtime)
    fresh = runtime.to_device(run.setup.new_model())
    names = list(modules or run.config.recorder.modules or _recorded(run) or default_modules(fresh))
    found = []
    with Progress(f"measuring checkpoints of {run.path}", len(epochs) + 1) as progress:
        twin = twin_statistics(fresh, names, images, labels)
        progress.advance("re-initialised twins")
        for epoch in epochs:
            found.append(_measured(run.model(epoch, runtime.device), names, images, labels))
            progress.advance(f"epoch {epoch}")
    return [
        ModuleHistory(
            run=str(run.path),
            module=output,
            epochs=np.array(epochs),
            values={s: np.array([one[output][s] for one in found]) for s in found[0][output]},
            twin=twin[output],
            losses=np.array(losses),
            planned=run.config.train.epochs if run.own is None else None,
            about=about_run(run) | _place(run, names, output),
        )
        for output in found[0]
    ]


def probe_of(run: Run, probe: int, view: int, runtime: Runtime) -> tuple[Tensor, Tensor | None]:
    """Return so many training images as the network got them, and their classes; None where they have none."""
    setup = run.setup
    train = setup.data.train
    draw = torch.Generator().manual_seed(1000 + view)
    index = torch.randperm(len(train), generator=draw)[:probe]
    labels = train.targets[index].to(runtime.device)
    if isinstance(setup, OwnSetup):
        images = setup.images(train, runtime)(index)
    else:
        images = setup.transform(train.select(index).images, draw).to(runtime.device)
    return images, labels if bool((labels >= 0).all()) else None


def _recorded(run: Run) -> list[str]:
    rows = [row["modules"] for row in run.curve if row.get("modules")]
    return list(rows[-1]) if rows else []


def _measured(
    model: nn.Module, names: Sequence[str], images: Tensor, labels: Tensor | None
) -> Statistics:
    found = module_statistics(model, names, images, labels)
    loss = _head_loss(model, images, labels)
    return found if loss is None else {o: v | {"head_loss": loss} for o, v in found.items()}


@torch.inference_mode()
def _head_loss(model: nn.Module, images: Tensor, labels: Tensor | None) -> float | None:
    if labels is None:
        return None
    with eval_mode(model):
        parts = [model(part) for part in images.split(_TOGETHER)]  # type: ignore[no-untyped-call]
    if not all(isinstance(part, Tensor) and part.ndim == 2 for part in parts):
        return None
    logits = torch.cat(parts).float()
    if logits.shape[1] <= int(labels.max()):
        return None
    return float(np.log(max(float(F.cross_entropy(logits, labels)), 1e-12)))


def _place(run: Run, names: Sequence[str], output: str) -> dict[str, str]:
    """Return whether an output is the last map, or behind it; nothing where no module gives maps."""
    try:
        layer = run.setup.layer
    except ValueError:
        return {}
    places = [n for n, name in enumerate(names) if output.startswith(name)]
    if layer not in names or not places:
        return {}
    return {"place": "last" if max(places) >= names.index(layer) else "earlier"}


def about_run(run: Run) -> dict[str, str]:
    """Return what a scorer compares with its training card, in the words of the one that comes with fmce.

    Of a loop of the user's own next to nothing is known.
    """
    config = run.config
    if run.own is not None:
        return {"architecture": str(config.recorder.model)}
    model, train = config.model, config.train
    options = {"width": 16, **model.options} if model.name == "tiny" else model.options
    return {
        "data": f"{config.data.name} {config.data.image_size}px",
        "architecture": model.name,
        "width": " ".join([model.name, *map(str, options.values())]),
        "recipe": f"adam-{train.learning_rate:g}-{train.epochs}-{train.schedule}-{train.batch_size}",
    }
