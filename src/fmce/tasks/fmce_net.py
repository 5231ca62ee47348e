"""Training and reading an FMCE-Net: from feature maps to their convergence phase (FMCE paper, Section IV-E)."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmce.engine.loop import StepOutput
from fmce.engine.runtime import Runtime
from fmce.feature_maps.source import MapBatch
from fmce.models.features import eval_mode


def score_step(fmce_net: nn.Module) -> Callable[[MapBatch], StepOutput]:
    """Return the training step: cross-entropy over phases; logit index = phase − 1."""

    def step(batch: MapBatch) -> StepOutput:
        logits = fmce_net(batch.maps).float()
        targets = batch.phases - 1
        correct = (logits.argmax(1) == targets).sum()
        return StepOutput(F.cross_entropy(logits, targets), len(targets), {"accuracy": correct})

    return step


@torch.no_grad()
def score_maps(
    fmce_net: nn.Module, batches: Iterable[MapBatch], runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """Run a fmce_net over maps, in eval mode; its own modes are restored.

    Returns:
        Phase logits float32 (N,K) and true phases int64 (N,), both on the CPU, in the maps' order.
    """
    logits, phases = [], []
    with eval_mode(fmce_net):
        for batch in batches:
            if not len(batch.phases):
                continue  # the last batch may have fewer maps than there are ranks
            with runtime.autocast():
                # They stay there to the end: to fetch each batch's would make the host wait each time.
                logits.append(fmce_net(runtime.to_device(batch.maps)).float())
            phases.append(batch.phases)
    return torch.cat(logits).cpu(), torch.cat(phases).cpu()
