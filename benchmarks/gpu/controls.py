"""Two more controls of FMCE-Net++: label smoothing, and an exponential moving average of the weights.

Both are cheaper than an auxiliary network and may do as much for accuracy, so a gain of FMCE-Net++ is
compared with theirs. They train as the baseline does, in a run folder that resumes exactly.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from fmce.config.io import to_dict
from fmce.config.run import RunConfig
from fmce.data.batch import ImageBatch
from fmce.engine.loop import EpochResult, StepOutput
from fmce.engine.runtime import Runtime
from fmce.maturity.prepare import prepare
from fmce.models.compiled import CompiledModel
from fmce.runs.log import lock_run, mark_done, read_done
from fmce.runs.resume import Optimization, fit_resumable
from fmce.tasks.classification import classifier_output, evaluate_classifier

Control = Literal["label_smoothing", "weight_average"]
# Szegedy et al. 2016, section 7.
SMOOTHING = 0.1
# About the last six epochs' steps of 176 count, of which the cosine makes the late ones small.
DECAY = 0.999


class WithAverage(nn.Module):
    """A network and the moving average of its weights, both in the state dict, so that a resume is exact."""

    def __init__(self, model: nn.Module) -> None:
        """Start the average at the model's weights."""
        super().__init__()
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Move the average towards the weights and statistics as they are after so many steps."""
        # Early on the average follows faster: it would be the initial weights for a thousand steps.
        decay = min(DECAY, steps / (steps + 10))
        pairs = list(zip(_tensors(self.average), _tensors(self.model), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        averages, values = (list(side) for side in zip(*floats, strict=True))
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def train_control(
    config: RunConfig, control: Control, folder: Path, runtime: Runtime
) -> dict[str, Any]:
    """Train a control in its run folder and return the contents of its `DONE.json`.

    Args:
        config: The baseline arm's.
        control: Which one.
        folder: Run folder; one that was stopped continues.
        runtime: The device; how passes are computed is the config's.
    """
    run, model, runtime = prepare(config, folder, runtime)
    setup, section = run.training, run.config.train
    text = yaml.safe_dump({"control": control, **to_dict(run.config)}, sort_keys=False)
    network = WithAverage(model) if control == "weight_average" else model
    evaluated = network.average if isinstance(network, WithAverage) else model
    batches = setup.training_batches(runtime)
    validation = setup.batches(setup.data.validation, runtime)

    def measure(result: EpochResult, _rows: object) -> dict[str, float]:
        if isinstance(network, WithAverage):
            # The epoch's last step; every other one is taken in at the start of the step after it.
            network.update(result.epoch * len(batches))
        scores = evaluate_classifier(evaluated, validation, runtime)
        return {"validation_loss": scores.loss, "validation_accuracy": scores.accuracy}

    with lock_run(folder, text, defaults={}, ranks=runtime.ranks):
        done = read_done(folder)
        if done is not None:
            return done
        with CompiledModel(model) if runtime.compile else nullcontext(model) as forward:
            fit_resumable(
                folder,
                network,
                _step(forward, control, network, len(batches)),
                batches,
                Optimization(section.epochs, section.learning_rate, section.seed, section.schedule),
                runtime,
                measure=measure,
            )
        test = evaluate_classifier(evaluated, setup.batches(setup.data.test, runtime), runtime)
        done = {
            "epochs": section.epochs,
            "test_accuracy": test.accuracy,
            "test_loss": test.loss,
        }
        mark_done(folder, done)
    return done


def _step(
    forward: nn.Module, control: Control, network: nn.Module, steps: int
) -> Callable[[ImageBatch], StepOutput]:
    smoothing = SMOOTHING if control == "label_smoothing" else 0.0

    def step(batch: ImageBatch) -> StepOutput:
        if isinstance(network, WithAverage) and batch.step % steps:
            network.update(batch.step)
        logits = forward(batch.images)
        task = F.cross_entropy(logits.float(), batch.targets)
        loss = F.cross_entropy(logits.float(), batch.targets, label_smoothing=smoothing)
        sums = {"task_loss": task.detach() * len(batch.targets)}
        return classifier_output(loss, logits, batch, **sums)

    return step
