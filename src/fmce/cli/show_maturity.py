"""What the commands of method 1 print."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmce.cli.show_modules import show_modules
from fmce.config.choices import FMCE_NET_METRICS, GRAD_CAM_NUMBERS
from fmce.console.tables import epochs, number, percent, print_table, size_text

if TYPE_CHECKING:
    from fmce.convergence.phases import Phases
    from fmce.convergence.prediction import PredictedEpoch
    from fmce.convergence.verdict import Verdict
    from fmce.demo import DemoResult
    from fmce.maturity.phases import FoundPhases


def show_phases(found: "FoundPhases") -> None:
    """Print a curve's phases with what the smoother and the schedule did to them, then the verdict."""
    if found.phases is not None:
        _show_markers(found, found.phases)
    print(*found.notes, sep="\n", end="\n" if found.notes else "")
    if found.figure is not None:
        print(f"figure: {found.figure}")
    if found.provisional:
        when = "not yet" if (predicted := found.predicted) is None else _interval(predicted)
        reached = found.phases is not None and found.phases.converged
        print(
            "provisional: the training is not finished"
            + ("" if reached else f"; predicted E_K: {when}")
        )
    print(*found.verdict.lines, sep="\n")


def show_curves(curves: "Sequence[FoundPhases]", unread: Mapping[Path, str]) -> None:
    """Print one line per curve: its verdict and its published convergence epoch; then how each file was read.

    Args:
        curves: Those that could be read.
        unread: The other sources, with the reason.
    """
    rows: list[tuple[object, ...]] = []
    for one in curves:
        verdict, phases = one.verdict, one.phases
        epoch = "–" if verdict.epoch is None else _interval(verdict)
        published = "–" if phases is None or not phases.converged else phases.convergence_epoch
        state = verdict.state.replace("_", " ") + (" (provisional)" if one.provisional else "")
        rows.append((one.source, len(one.losses), state, epoch, published, verdict.advice))
    rows.extend((source, "–", "not read", "–", "–", why) for source, why in unread.items())
    header = ("curve", "epochs", "verdict", "since epoch", "published E_K", "advice")
    print_table("Verdicts", header, rows)
    for one in curves:
        if one.notes:
            print(f"{one.source}: {'; '.join(one.notes)}")


def _interval(found: "Verdict | PredictedEpoch") -> str:
    high = "?" if found.high is None else found.high
    return str(found.epoch) if found.low == found.high else f"{found.epoch} ({found.low} to {high})"


def _show_markers(found: "FoundPhases", phases: "Phases") -> None:
    from fmce.convergence.phases import window_sensitivity

    losses, rows = found.losses, []
    for k, epoch in enumerate(phases.markers, start=1):
        values = (losses[epoch - 1], phases.smoothed[epoch - 1], phases.cqi[epoch - 1])
        rows.append((k, epoch, *map(number, values)))
    source = str(found.source)
    if found.curve is not None:
        source += f", {found.curve.column}"
    header = ("phase", "epoch", "loss", "smoothed", "CQI")
    print_table(f"Convergence phases of {source}", header, rows)
    print(
        f"start epoch {phases.start_epoch}, published convergence epoch {phases.convergence_epoch} of "
        f"{phases.num_epochs} (µ = {phases.threshold:.3g})"
    )
    print(*remarks(phases), sep="\n")
    for window, markers in window_sensitivity(losses, phases.config).items():
        print(f"CQI over {window:2d} epochs:         {epochs(markers)}")
    if (own := found.own_epochs) is not None:
        print(f"the same markers as the file numbers epochs: [{', '.join(f'{e:g}' for e in own)}]")


def remarks(phases: "Phases") -> list[str]:
    """Describe what smoothing and learning-rate schedule did to the markers, one line each."""
    lines = []
    if not phases.converged:
        lines.append("not converged: CQI stayed above the threshold, and the last epoch was taken")
    lines.append(f"step curve, same smoothing: {epochs(phases.step_curve_markers)}")
    lines.append(f"without smoothing:          {epochs(phases.unsmoothed_markers)}")
    lines.append(f"debiased average:           {epochs(phases.debiased_markers)}")
    if phases.smoothing_share is not None:
        artefact = ": the markers are largely an artefact of the smoothing"
        share, driven = percent(phases.smoothing_share, 0), phases.smoothing_driven
        line = f"a step curve takes {share} of the epochs to convergence too"
        lines.append(line + (artefact if driven else ""))
    if phases.lr_fraction is not None:
        verdict = "; CQI partly measures the schedule" if phases.schedule_driven else ""
        lines.append(f"learning rate at E_K: {phases.lr_fraction:.3f} of its peak{verdict}")
    return lines


def show_fmce_net(title: str, rows: Iterable[tuple[str, dict[str, Any] | None]]) -> None:
    """Print phase metrics, one row per set of maps; sets without metrics are left out."""
    known = [(name, metrics) for name, metrics in rows if metrics]
    cells = [(name, *(number(metrics[n]) for n in FMCE_NET_METRICS)) for name, metrics in known]
    print_table(title, ("maps", *FMCE_NET_METRICS), cells)


def show_evaluation(run: Path, result: dict[str, Any], trained_on: set[Path]) -> None:
    """Print the classifier at each marker and FMCE-Net on each set of maps; `trained_on` are absolute paths."""
    rows = [
        (r["phase"], r["epoch"], percent(r["test_accuracy"]), number(r["test_loss"]))
        for r in result["classifier"]
    ]
    header = ("phase", "epoch", "accuracy", "loss")
    print_table(f"Classifier of {run} on test images", header, rows)
    sets = {"held-out maps": "held_out", "test images": "test_images"}
    nets = [(name, result["fmce_net"][key]) for name, key in sets.items()]
    for name, metrics in result["other_runs"].items():
        kind = "a run it was trained on" if Path(name).resolve() in trained_on else "other run"
        nets.append((f"{kind}: {name}", metrics))
    narrow = "" if result["width"] == 1 else f", width {result['width']:g}"
    show_fmce_net(f"FMCE-Net, split {result['split']}{narrow}", nets)


def show_fmcs(result: dict[str, Any]) -> None:
    """Print a score with the warning about what it is valid for."""
    shares = enumerate(result["share_per_phase"], start=1)
    title = f"Phase that FMCE-Net gives the maps of {result['checkpoint']}"
    print_table(title, ("phase", "test images"), [(k, percent(s, 1)) for k, s in shares])
    print(f"score {result['mean']:.2f} ± {result['sd']:.2f} over {result['images']} test images")
    if result["true_phase"] is not None:
        print(f"by the loss curve this epoch is in phase {result['true_phase']}")
    print(result["warning"])


def show_explanation(run: Path, result: dict[str, Any]) -> None:
    """Print the means of Grad-CAM's numbers in each phase."""
    phases = enumerate(zip(result["epochs"], result["per_phase"], strict=True), start=1)
    rows = [(k, e, *(number(means[n], 3) for n in GRAD_CAM_NUMBERS)) for k, (e, means) in phases]
    title = f"Grad-CAM of {len(result['classes'])} test images"
    print_table(title, ("phase", "epoch", *GRAD_CAM_NUMBERS), rows)
    print(f"picture: {run / 'explain' / 'grad_cam.png'}")


def show_demo(result: "DemoResult") -> None:
    """Print the summary of `fmce demo` on the digits."""
    against, selection = result.comparison.against_baseline, result.comparison.selection
    assert against is not None  # the demo trains every arm at every seed
    assert selection is not None
    by_map, by_image = (percent(net["held_out"]["accuracy"]) for net in result.fmce_nets)
    print()
    print(f"test accuracy       {percent(result.test_accuracy)}")
    print(f"phase markers       {list(result.phases.markers)}")
    for line in remarks(result.phases):
        print(f"                    {line}")
    print(f"FMCE-Net accuracy   {by_map} on held-out maps (split map)")
    print(f"                    {by_image} on unseen images (split image)")
    print(f"baseline            {_mean(against, 'baseline')} over {against['n']} seeds")
    print(f"FMCE-Net++          {_mean(against, 'treatment')} at RAF {selection['raf']}")
    print(f"                    {against['verdict']}")
    show_modules(result.modules)
    print(*result.verdict.lines, sep="\n")


def _mean(against: dict[str, Any], arm: str) -> str:
    return f"{100 * against[f'mean_{arm}']:.2f} ± {100 * against[f'sd_{arm}']:.2f} %"


def show_store(path: Path, result: Mapping[str, Any]) -> None:
    """Print in one line what `extract` stored, or its estimate."""
    from fmce.feature_maps.extract import STORE

    if "bytes_free" in result:
        print(
            f"{_maps(result)} would take about {size_text(result['bytes'])}, at most "
            f"{size_text(result['bytes_at_most'])}; {size_text(result['bytes_free'])} are free"
        )
    elif result["missing"]:
        missing = ", ".join(map(str, result["missing"]))
        print(f"own markers stored in {path / STORE}; others still write epochs {missing}")
    else:
        print(f"{_maps(result)} in {path / STORE}: {size_text(result['bytes'])}")


def _maps(result: Mapping[str, Any]) -> str:
    return f"{result['maps']} maps of {'×'.join(map(str, result['map_shape']))}"
