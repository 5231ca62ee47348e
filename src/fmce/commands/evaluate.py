"""`fmce evaluate`: a run's classifier at each marker, and its FMCE-Net on maps of test images and of other runs."""

from collections.abc import Sequence
from typing import Any

from fmce.commands.show import number, percent, print_table
from fmce.commands.train_net import measure_on_test_images
from fmce.configs import Split, with_settings
from fmce.engine.files import read_json, write_json
from fmce.engine.runtime import Runtime, make_runtime
from fmce.run_folder import Run, check_same_data
from fmce.tasks.classify import evaluate_classifier


def evaluate(
    run: Run,
    split: Split = "map",
    *,
    others: Sequence[Run] = (),
    settings: Sequence[str] = (),
    runtime: Runtime | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Evaluate a run's classifier and FMCE-Net on the test images; write `evaluation.json`.

    Args:
        run: has phases and an FMCE-Net.
        split: which FMCE-Net.
        others: runs whose maps the FMCE-Net is asked about too, though it was not trained on them.
        settings: `field=value` on top of the other runs' `scorer` section, such as "maps=stored".
        runtime: device and precision; memory order and TF32 are the run's own.
        quiet: print nothing.

    Returns:
        "classifier" (one row a marker), "fmce_net" (held-out maps, test images) and "other_runs".

    Raises:
        FileNotFoundError: phases, checkpoints or the FMCE-Net are missing.
        ValueError: another run's maps have another shape or number of phases.
    """
    runtime = run.as_trained(runtime or make_runtime())
    for other in others:
        check_same_data(run.config, other)
    net = run.scorer(split).to(runtime.device)
    trained = read_json(run.scorer_folder(split) / "metrics.json")
    result = {
        "split": split,
        "classifier": _classifier_rows(run, runtime),
        "fmce_net": {key: trained[key] for key in ("held_out", "test_images")},
        "other_runs": {
            str(other.path): measure_on_test_images(
                net, other, other.phases, runtime, with_settings(other.config.scorer, settings)
            ).to_dict()
            for other in others
        },
    }
    write_json(run.path / "evaluation.json", result)
    if not quiet:
        _print(run, result)
    return result


def _classifier_rows(run: Run, runtime: Runtime) -> list[dict[str, Any]]:
    test = run.batches(run.data.test, runtime)
    rows = []
    for phase, epoch in enumerate(run.phases.markers, start=1):
        scores = evaluate_classifier(runtime.put(run.model(epoch)), test, runtime)
        rows.append(
            {
                "phase": phase,
                "epoch": epoch,
                "test_accuracy": scores.accuracy,
                "test_loss": scores.loss,
            }
        )
    return rows


def _print(run: Run, result: dict[str, Any]) -> None:
    rows = [
        (r["phase"], r["epoch"], percent(r["test_accuracy"]), number(r["test_loss"]))
        for r in result["classifier"]
    ]
    print_table(
        f"Classifier of {run.path} on test images", ("phase", "epoch", "accuracy", "loss"), rows
    )
    nets = [
        ("held-out maps", result["fmce_net"]["held_out"]),
        ("test images", result["fmce_net"]["test_images"]),
    ]
    nets += [(f"other run: {name}", metrics) for name, metrics in result["other_runs"].items()]
    print_metrics(f"FMCE-Net, split {result['split']}", nets)


def print_metrics(title: str, rows: Sequence[tuple[str, dict[str, Any] | None]]) -> None:
    """Print phase metrics, one row a set of maps."""
    names = ("accuracy", "precision", "recall", "f1", "mae", "spearman", "kappa")
    cells = [(name, *(number(metrics[n]) for n in names)) for name, metrics in rows if metrics]
    print_table(title, ("maps", *names), cells)
