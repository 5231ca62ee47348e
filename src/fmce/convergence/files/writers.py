"""Who writes which training log: one entry a program, data alone. `docs/reading-your-files.md` shows it as a table."""

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Writer:
    """How a program writes its log. All patterns are regular expressions for complete names, in any case.

    Args:
        name: Word for `--format`.
        title: Program and file, as messages name them.
        layout: "table" (columns with a header), "records" (an object a row), "lists" (a list a column) or "text".
        needs: Alternatives; each is a set of patterns that must all find a column. "KEY[]" stands for the list of
            records under that key of a JSON document.
        loss: Columns of the training loss, the best first.
        summed: Whether the loss is the sum of all columns that match; otherwise one must.
    """

    name: str
    title: str
    layout: str
    needs: tuple[tuple[str, ...], ...]
    loss: tuple[str, ...] = ()
    summed: bool = False


_NOT_BOUND = r"(?!.*__M(IN|AX)$)"
_HISTORY = r"(history\.)?"
_METRIC = r"val_.*|accuracy|acc|.*_accuracy|auc|mae|mse"

# The first that fits is taken.
WRITERS = (
    Writer(
        "huggingface",
        "Hugging Face trainer_state.json",
        "records",
        ((r"log_history\[\]",),),
        ("loss",),
    ),
    Writer(
        "huggingface",
        "Hugging Face log_history",
        "records",
        (("epoch", "learning_rate", "grad_norm", "loss"),),
        ("loss",),
    ),
    Writer(
        "ultralytics",
        "Ultralytics results.csv",
        "table",
        (("epoch", "train/.*loss", "metrics/.*|lr/pg0|x/lr0"),),
        ("train/(.*_)?loss",),
        summed=True,
    ),
    Writer(
        "lightning",
        "Lightning metrics.csv",
        "table",
        (("epoch", "step", ".+_(epoch|step)"), ("epoch", "step", "val.*|lr-.*")),
        (
            "(train_|train/|training_)?loss_epoch",
            "train.*loss_epoch",
            "(train_|train/|training_)loss",
            "loss",
            "(train_|train/|training_)?loss_step",
            "train.*loss(_step)?",
        ),
    ),
    Writer(
        "timm", "timm summary.csv", "table", (("epoch", "train_loss", "eval_.*"),), ("train_loss",)
    ),
    Writer("keras-csv", "Keras CSVLogger", "table", (("epoch", "loss", _METRIC),), ("loss",)),
    Writer(
        "keras-history",
        "Keras History",
        "lists",
        ((_HISTORY + "loss", _HISTORY + f"({_METRIC})"),),
        (_HISTORY + "loss",),
    ),
    Writer(
        "mmdetection",
        "mmdetection log.json",
        "records",
        (("mode", "iter", ".*loss.*"),),
        ("loss",),
    ),
    Writer(
        "mmengine",
        "mmengine scalars.json",
        "records",
        (("iter", "loss", "data_time", "time|memory|step"),),
        ("loss",),
    ),
    Writer(
        "detectron2",
        "detectron2 metrics.json",
        "records",
        (("iteration", "(total_)?loss", "lr|time|data_time|eta_seconds"),),
        ("total_loss", "loss"),
    ),
    Writer(
        "nnunet",
        "nnU-Net log",
        "lists",
        (("train_losses", "val_losses"),),
        ("train_losses",),
    ),
    Writer("nnunet-text", "nnU-Net training_log.txt", "text", (("train_loss",),), ("train_loss",)),
    Writer(
        "fairseq",
        "fairseq log",
        "records",
        (("train_loss", "train_(ppl|wps|wpb|ups|nll_loss|num_updates)"),),
        ("train_loss",),
    ),
    Writer(
        "wandb-export",
        "W&B chart export",
        "table",
        ((r".+ - .+__MIN", r".+ - .+__MAX"),),
        (
            _NOT_BOUND + r".+ - (train[/_. ])?loss",
            _NOT_BOUND + r".+ - .*train.*loss.*",
            _NOT_BOUND + r".+ - .*loss.*",
            _NOT_BOUND + r".+ - .+",
        ),
    ),
    Writer("wandb-history", "W&B run history", "table", (("_step", "_runtime|_timestamp"),)),
    Writer("wandb-history", "W&B run history", "records", (("_step", "_runtime|_timestamp"),)),
    Writer("trackio", "trackio metric", "records", ((r"values\[\]", "step", "timestamp"),)),
    Writer("trackio", "trackio table", "table", (("run_name|run", "step", "timestamp"),)),
    Writer(
        "tensorboard-download",
        "TensorBoard download",
        "table",
        (("wall time", "step", "value"),),
        ("value",),
    ),
)


def writer_of(layout: str, names: Collection[str], asked: str | None = None) -> Writer | None:
    """Return the program that writes logs of this form; None where none is known.

    Args:
        layout: As in `Writer`.
        names: The columns, and "KEY[]" for where a JSON document had its records.
        asked: Word of `--format`, which overrides the columns.
    """
    for writer in WRITERS:
        if asked is not None and asked == writer.name:
            return writer
        fits = any(all(any_match(p, names) for p in needed) for needed in writer.needs)
        if asked is None and writer.layout == layout and fits:
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


# Names of the training loss in logs of one's own, the best first; as words joined by "_".
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
KIND_NAME = (
    "run|fold|seed|trial|rank|worker|replica|split|mode|phase|stage|set|subset|experiment|(run|rank|exp)_(id|name)|version|"
    "gpu|client|model"
)
