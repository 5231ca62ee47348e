"""Function matching for classification: CIFAR-10 with a tenth of its labels, a wide network teaches a narrow one.

    python -m experiments.distillation_classification [--full] [--out runs/function_matching-cifar10]

Needs cifar10 below FMCE_DATA. The teacher and every arm see 4,500 labels; the pool is the rest of the training
images; scores are on 5,000 test images (10,000 with --full); three seeds. Records one row in
results/distillation.jsonl. If interrupted, rerun the command to resume. Time: about 30 core-minutes on a CPU,
with tiny networks of width 16 and 8 and 1,600 steps. `--full` is for a GPU: widths 64 and 16, 20,000 steps,
with mixup. Expected: the matched student one to four points above the supervised one. The slides have no
classification; Beyer et al. match ResNet-50 to BiT's 82.8 % on ImageNet in 9,600 epochs.
"""

from collections.abc import Sequence
from dataclasses import replace

from experiments.distillation_runs import run_experiment
from experiments.script import options_parser, run_script
from fmce.config.distillation import (
    AugmentationConfig,
    DistillationConfig,
    NetConfig,
    StepsConfig,
    distillation_preset,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment and record the row."""
    parser = options_parser(__doc__, "distillation.jsonl", "runs/function_matching-cifar10")
    parser.add_argument("--full", action="store_true", help="wider and longer, for a GPU")
    options = parser.parse_args(argv)
    config = full_size() if options.full else reduced()
    what = f"function matching on CIFAR-10{', full size' if options.full else ''}"
    run_experiment(options.results, "distillation_classification", what, config, options.out)


def reduced() -> DistillationConfig:
    """Return a size that two CPU cores train in less than an hour."""
    preset = distillation_preset("cifar10")
    return replace(
        preset,
        data=replace(preset.data, held_out=1000, validation=5000),
        augmentation=AugmentationConfig(zoom=1.3),
        teacher=NetConfig("tiny", {"width": 16}),
        student=NetConfig("tiny", {"width": 8}),
        # 40 passes over the labels for the teacher; at 11 it is no better than its student.
        teacher_steps=StepsConfig(steps=2800, batch_size=64, learning_rate=4e-3, interval=400),
        student_steps=StepsConfig(steps=1600, batch_size=64, learning_rate=4e-3, interval=400),
    )


def full_size() -> DistillationConfig:
    """Return a size for a GPU."""
    preset = distillation_preset("cifar10")
    steps = StepsConfig(steps=20_000, batch_size=256, learning_rate=4e-3, interval=1000)
    return replace(
        preset,
        data=replace(preset.data, held_out=2000),
        augmentation=AugmentationConfig(zoom=1.3),
        teacher_steps=steps,
        student_steps=replace(steps, mixup=True),
    )


if __name__ == "__main__":
    run_script(main)
