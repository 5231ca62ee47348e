"""Who writes which training log: one entry a program, data alone. `docs/reading-your-files.md` shows it as a table."""

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Writer:
    """How a program writes its log.

    Patterns are regular expressions for complete names, in any case; blanks stand between them.

    Args:
        name: Word for `--format`.
        title: Program and file, as messages name them.
        layout: "table" (columns with a header), "records" (an object a row), "lists" (a list a column) or "text".
        needs: Patterns that must all find a column. "KEY[]" stands for the list of records under that key of a
            JSON document.
        loss: Patterns for columns of the training loss, the best first.
        several: "summed" where the loss is the sum of all columns that match; otherwise one must.
    """

    name: str
    title: str
    layout: str
    needs: str
    loss: str = ""
    several: str = ""


_LIGHTNING = (
    "(train_|train/|training_)?loss_epoch train.*loss_epoch (train_|train/|training_)loss loss "
    "(train_|train/|training_)?loss_step train.*loss(_step)?"
)
_METRIC = "(val_.*|accuracy|acc|.*_accuracy|auc|mae|mse)"
_CHART = r"(?!.*__M(IN|AX)$).+\s-\s"
_CHARTS = rf"{_CHART}(train[/_.\s])?loss {_CHART}.*train.*loss.* {_CHART}.*loss.* {_CHART}.+"
# One a line, with the fields of `Writer`; the first that fits is taken.
_WRITERS = rf"""
huggingface; Hugging Face trainer_state.json; records; log_history\[\]; loss
huggingface; Hugging Face log_history; records; epoch learning_rate grad_norm loss; loss
ultralytics; Ultralytics results.csv; table; epoch train/.*loss metrics/.*|lr/pg0|x/lr0; train/(.*_)?loss; summed
lightning; Lightning metrics.csv; table; epoch step .+_(epoch|step)|val.*|lr-.*; {_LIGHTNING}
timm; timm summary.csv; table; epoch train_loss eval_.*; train_loss
keras-csv; Keras CSVLogger; table; epoch loss {_METRIC}; loss
keras-history; Keras History; lists; (history\.)?loss (history\.)?{_METRIC}; (history\.)?loss
mmdetection; mmdetection log.json; records; mode iter .*loss.*; loss
mmengine; mmengine scalars.json; records; iter loss data_time time|memory|step; loss
detectron2; detectron2 metrics.json; records; iteration (total_)?loss lr|time|data_time|eta_seconds; total_loss loss
nnunet; nnU-Net log; lists; train_losses val_losses; train_losses
nnunet-text; nnU-Net training_log.txt; text; train_loss; train_loss
fairseq; fairseq log; records; train_loss train_(ppl|wps|wpb|ups|nll_loss|num_updates); train_loss
wandb-export; W&B chart export; table; .+\s-\s.+__MIN .+\s-\s.+__MAX; {_CHARTS}
wandb-history; W&B run history; table; _step _runtime|_timestamp
wandb-history; W&B run history; records; _step _runtime|_timestamp
trackio; trackio metric; records; values\[\] step timestamp
trackio; trackio table; table; run_name|run step timestamp
tensorboard-download; TensorBoard download; table; wall\stime step value; value
"""
WRITERS = tuple(Writer(*map(str.strip, line.split(";"))) for line in _WRITERS.strip().splitlines())


def writer_of(layout: str, names: Collection[str], asked: str | None = None) -> Writer | None:
    """Return the program that writes logs of this form; None where none is known.

    Args:
        layout: As in `Writer`.
        names: The columns, and "KEY[]" for where a JSON document had its records.
        asked: Word of `--format`, which overrides the columns.
    """
    for writer in WRITERS:
        fits = writer.layout == layout and all(any_match(p, names) for p in writer.needs.split())
        if writer.name == asked or (asked is None and fits):
            return writer
    return None


def any_match(pattern: str, names: Collection[str]) -> list[str]:
    """Return the names that a pattern matches completely, in any case."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return [name for name in names if compiled.fullmatch(name)]


# What a column counts or steers is told by the words of its name.
_COUNTS = (
    "epochs?|ep|steps?|iters?|iterations?|it|updates?|batch|batches|samples?|tokens?|index|idx|id|num|number|count|row|"
    "seed|fold|rank"
)
_STEERS = (
    "lrs?|lr[0-9]|rates?|momentum|beta[0-9]?|decay|wd|scaler?|g?norm|clip|weight|times?|timestamps?|sec|secs|seconds?|"
    "minutes|hours|ms|duration|runtime|elapsed|wall|walltime|eta|mem|memory|throughput|fps|[iwtu]ps|wpb|bsz|speed|flo[ps]s?|"
    "temperature|gpu|cpu|power|utilization|date|day|hour|pg[0-9]?|min|max"
)
_SCORES = (
    "acc|accuracy|top[0-9]|f1|m?iou|m?ap[0-9]*|ar|dice|auc|auroc|precision|recall|psnr|ssim|bleu|rouge|[wc]er|score|"
    "perplexity|ppl|fitness|kappa|r2|fid|gb|oom"
)
HELD_OUT = "val|valid|validation|eval|evaluation|test|testing|dev"
_LOSSES = "loss|losses|nll|b?ce|r?mse|mae|cross|entropy|crossentropy|elbo|objective|cost"


def words_of(name: str) -> list[str]:
    """Return the words of a column's name in lower case.

    >>> words_of("Train/trainLoss-step")
    ['train', 'train', 'loss', 'step']
    """
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def spelled(name: str) -> str:
    """Return the words of a column's name joined by "_", whatever the file joins them by."""
    return "_".join(words_of(name))


def is_kind(name: str) -> bool:
    """Return whether a column is named like one that tells trainings or kinds of rows apart."""
    return re.fullmatch(_KIND_NAME, spelled(name)) is not None


def never_loss(name: str) -> bool:
    """Return whether a column is a rate, a time, a step or another count, and so is never taken for the loss unasked.

    >>> [never_loss(n) for n in ("lr-Adam", "global_step", "loss_scale", "train_loss_step", "nll")]
    [True, True, True, False, False]
    """
    words = words_of(name.rpartition(" - ")[2])
    counts = any_match(_COUNTS, words) and not any_match(_LOSSES, words)
    return bool(any_match(_STEERS, words) or counts)


def is_other_measure(name: str) -> bool:
    """Return whether a column is a score, or measured on held-out data, and so is not taken for the loss unasked.

    >>> [is_other_measure(n) for n in ("val_loss", "train/acc", "nll")]
    [True, True, False]
    """
    words = words_of(name)
    score = any_match(_SCORES, words) and not any_match(_LOSSES, words)
    return bool(score or any_match(HELD_OUT, words))


# Names of the training loss in custom logs, the best first; as words joined by "_".
USUAL_LOSSES = (
    *("loss", "train_loss", "training_loss", "loss_train", "loss_training", "trn_loss"),
    *("train_loss_epoch", "loss_epoch", "epoch_loss", "train_epoch_loss"),
    *("total_loss", "train_total_loss", "loss_total", "train_loss_total"),
    *("avg_loss", "average_loss", "mean_loss", "loss_avg", "loss_mean", "train_avg_loss"),
    *("train_losses", "losses", "train_loss_step", "loss_step", "batch_loss", "step_loss"),
)
_BEFORE = r"((current|cur|train|training|trainer|global|log)_)*"
_AFTER = r"(_(idx|index|id|num|number|no|nr|i))?"
EPOCH_NAME = _BEFORE + r"(epochs?|epoche|ep)" + _AFTER
STEP_NAME = (
    _BEFORE
    + r"((total|n|num|optimizer)_)*(steps?|iters?|iterations?|updates?|batch|batches|minibatch)"
    + _AFTER
)
# Columns whose numbers tell rows of several trainings apart.
_KIND_NAME = (
    "run|fold|seed|trial|rank|worker|replica|split|mode|phase|stage|set|subset|experiment|(run|rank|exp)_(id|name)|version|"
    "gpu|client|model"
)
