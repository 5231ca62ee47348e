"""FMCE-Net++: the task's loss plus a frozen FMCE-Net's (Representation Auxiliary Loss, Eq. 4–5)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fmce.data.batch import ImageBatch
from fmce.engine.distributed.ranks import ALONE, Ranks
from fmce.engine.loop import StepOutput
from fmce.losses.auxiliary import (
    feature_matching_loss,
    fmcs_loss,
    representation_auxiliary_loss,
    ridge_probe_error,
)
from fmce.models.compiled import CompiledModel
from fmce.models.features import FeatureMaps
from fmce.tasks.classification import classifier_output, smoothed_losses

# Maps of the model's latest call; a loss on them reaches the model's weights.
CapturedMaps = FeatureMaps | CompiledModel


def ral_step(
    model: nn.Module,
    maps: CapturedMaps,
    layer: str,
    oracle: nn.Module,
    *,
    raf: float,
    target_phase: int | None = None,
    oracle_every: int = 1,
    oracle_batch_fraction: float = 1.0,
    smoothing: float = 0.0,
) -> Callable[[ImageBatch], StepOutput]:
    """Return FMCE-Net++'s training step; `oracle_every` above 1 or `oracle_batch_fraction` below 1 make it cheaper.

    Args:
        model: The classifier; its maps at `layer` get the oracle's gradient.
        maps: An open capture of `model` at `layer` that keeps gradients.
        layer: Submodule that returns the feature maps.
        oracle: Frozen FMCE-Net in eval mode: maps (B,C,h,w) → phase logits (B,K).
        raf: Weight of the task's loss, 0 to 1.
        target_phase: Phase that every map is pulled to; None is the last.
        oracle_every: Run the oracle in every n-th step of the training only, with n times the weight.
        oracle_batch_fraction: Run it on this fraction of each batch only; the mean over it stands for the batch.
        smoothing: Share of each target that all classes get alike.
    """
    published = oracle_every == 1 and oracle_batch_fraction == 1

    def step(batch: ImageBatch) -> StepOutput:
        logits = model(batch.images)
        base, plain = smoothed_losses(logits, batch, smoothing)
        if batch.step % oracle_every:
            none = _seen_sums(plain, plain.new_zeros(()), 0, batch)
            return classifier_output(raf * base, logits, batch, **none)
        # The first maps (b,C,h,w), b ≤ B, of a batch, which is shuffled: any part represents it.
        judged = maps.take(layer)
        if oracle_batch_fraction != 1:
            judged = judged[: max(1, round(oracle_batch_fraction * len(judged)))]
        phase_logits = oracle(judged)
        weights = (raf, target_phase)
        loss = representation_auxiliary_loss(
            base, phase_logits, *weights, oracle_every=oracle_every
        )
        # The curve stays the task's, so that CQI and phases mean the same with and without RAL.
        pull = fmcs_loss(phase_logits.detach(), target_phase)
        seen = len(judged)
        sums = _sums(plain, pull, batch) if published else _seen_sums(plain, pull, seen, batch)
        return classifier_output(loss, logits, batch, **sums)

    return step


def feature_matching_step(
    model: nn.Module,
    maps: CapturedMaps,
    layer: str,
    teacher_maps: Callable[[Tensor], Tensor],
    *,
    raf: float,
    ranks: Ranks = ALONE,
    smoothing: float = 0.0,
) -> Callable[[ImageBatch], StepOutput]:
    """Return the step of the control that pulls maps to those of a checkpoint instead of to a phase.

    Args:
        model: The classifier.
        maps: An open capture of `model` at `layer` that keeps gradients.
        layer: Submodule that returns the feature maps.
        teacher_maps: Images → the checkpoint's maps for the same view.
        raf: Weight of the task's loss, 0 to 1.
        ranks: The processes that share each batch; the teacher's maps have one scale over all of them.
        smoothing: Share of each target that all classes get alike.
    """

    def step(batch: ImageBatch) -> StepOutput:
        logits = model(batch.images)
        base, plain = smoothed_losses(logits, batch, smoothing)
        with torch.no_grad():
            wanted = teacher_maps(batch.images)
        square = ranks.mean(wanted.float().square().mean(), len(wanted))
        matching = feature_matching_loss(maps.take(layer), wanted, square)
        loss = raf * base + (1 - raf) * matching
        return classifier_output(loss, logits, batch, **_sums(plain, matching, batch))

    return step


def ridge_probe_step(
    model: nn.Module, maps: CapturedMaps, layer: str, *, raf: float, smoothing: float = 0.0
) -> Callable[[ImageBatch], StepOutput]:
    """Return the step of the control that asks a ridge probe of the batch instead of an FMCE-Net.

    Args:
        model: The classifier.
        maps: An open capture of `model` at `layer` that keeps gradients.
        layer: Submodule that returns the feature maps.
        raf: Weight of the task's loss, 0 to 1.
        smoothing: Share of each target that all classes get alike.
    """

    def step(batch: ImageBatch) -> StepOutput:
        logits = model(batch.images)
        base, plain = smoothed_losses(logits, batch, smoothing)
        error = ridge_probe_error(maps.take(layer), batch.targets, logits.shape[1])
        loss = raf * base + (1 - raf) * error
        return classifier_output(loss, logits, batch, **_sums(plain, error, batch))

    return step


def _sums(base: Tensor, auxiliary: Tensor, batch: ImageBatch) -> dict[str, Tensor]:
    count = len(batch.targets)
    return {"task_loss": base.detach() * count, "auxiliary_loss": auxiliary.detach() * count}


def _seen_sums(base: Tensor, auxiliary: Tensor, seen: int, batch: ImageBatch) -> dict[str, Tensor]:
    """Return the sums of a step whose oracle saw `seen` images; `mean_auxiliary` turns them into a mean."""
    sums = {"auxiliary_loss": auxiliary * seen, "auxiliary_share": base.new_full((), seen)}
    return {"task_loss": base.detach() * len(batch.targets), **sums}


def mean_auxiliary(means: Mapping[str, float]) -> dict[str, float | None]:
    """Return an epoch's mean auxiliary loss over the images that the oracle saw; None if it saw none.

    Args:
        means: The epoch's sums divided by its number of images. Without "auxiliary_share", the fraction that the
            oracle saw, the mean over all images is right already.

    >>> mean_auxiliary({"auxiliary_loss": 0.5, "auxiliary_share": 0.25})
    {'auxiliary_loss': 2.0}
    """
    if "auxiliary_share" not in means:
        return {}
    share = means["auxiliary_share"]
    return {"auxiliary_loss": means["auxiliary_loss"] / share if share else None}
