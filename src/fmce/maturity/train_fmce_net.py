"""`fmce train-net`: an FMCE-Net from the feature maps of a run's marker checkpoints (FMCE paper, IV-D and IV-E)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from fmce.config.choices import Split
from fmce.config.io import defaults_of, to_dict
from fmce.config.run import FMCENetConfig
from fmce.data.batch import ImageSet
from fmce.digests import read_record, write_record
from fmce.engine.runtime import Runtime, make_runtime
from fmce.feature_maps.extract import open_store
from fmce.feature_maps.extractor import map_extractor
from fmce.feature_maps.in_memory import InMemoryMaps
from fmce.feature_maps.recomputed import RecomputedMaps
from fmce.feature_maps.source import MapBatches, MapSource
from fmce.feature_maps.splits import split_maps
from fmce.metrics.phases import PhaseMetrics, phase_metrics
from fmce.models.fmce_net import FMCENet
from fmce.runs.log import lock_run, mark_done
from fmce.runs.resume import Optimization, finished, fit_resumable
from fmce.runs.run import Run, check_same_data
from fmce.seeding import seed_epoch
from fmce.tasks.fmce_net import score_maps, score_step

# Maps per forward pass of FMCE-Net when it is measured.
_SCORED_TOGETHER = 1024


def train_fmce_net(
    run: Run,
    split: Split = "map",
    *,
    others: Sequence[Run] = (),
    config: FMCENetConfig | None = None,
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """Train the FMCE-Net of a run in `RUN/fmce_net/SPLIT` and measure it on maps it never saw.

    Processes that torchrun started train together: the batch size is that of all of them.

    Args:
        run: A finished run with phases and its marker checkpoints.
        split: What is held out: maps (the paper), images, runs, or only the test images.
        others: Further runs of the same data and model, whose maps join; needed for split "run".
        config: Training of FMCE-Net; the run's own `fmce_net` section by default.
        runtime: Device and precision; memory order and TF32 are those of the run.

    Returns:
        The contents of `metrics.json`: for "held_out" and "test_images" the `PhaseMetrics` as a dict.

    Raises:
        FileNotFoundError: If phases or marker checkpoints are missing.
        ValueError: If the runs do not fit together.
    """
    runtime = run.setup.with_run_memory_format(runtime or make_runtime(together=True))
    config, ranks = config or run.config.fmce_net, runtime.ranks
    runs = [run, *others]
    _check_runs(runs, split)
    folder = run.fmce_net_folder(split, config.width)
    values = {
        "markers": list(run.phases.markers),
        "others": [{"path": str(r.path), "markers": list(r.phases.markers)} for r in others],
        "split": split,
        "fmce_net": to_dict(config),
        "precision": runtime.precision,
    }
    text = yaml.safe_dump(values, sort_keys=False)
    defaults = {"fmce_net": defaults_of(FMCENetConfig)}
    with lock_run(folder, text, defaults=defaults, ranks=ranks):
        if ranks.on_rank_zero(lambda: finished(folder)) is None:
            source = map_source(runs, run.setup.data.train, runtime, config)
            part = split_maps(
                split,
                num_images=source.num_images,
                num_phases=source.num_phases,
                num_runs=source.num_runs,
                test_fraction=config.test_fraction,
                seed=config.seed,
            )
            net = _fit(folder, split, source, part.train, config, runtime)
            held_out = _metrics(net, source, part.test, runtime) if len(part.test) else None
            own = measure_on_test_images(net, run, runtime, config)
            if ranks.is_main:
                trained, left_out = _runs_by_use(runs, source, part.train)
                net.save(folder / "fmce_net.safetensors", trained_on=", ".join(trained))
                metrics = {
                    "split": split,
                    "train_maps": len(part.train),
                    "test_maps": len(part.test),
                    "parameters": sum(p.numel() for p in net.parameters()),
                    "map_shape": list(net.map_shape),
                    "held_out": held_out.to_dict() if held_out else None,
                    "test_images": own.to_dict(),
                    "held_out_runs": left_out,
                }
                write_record(folder / "metrics.json", metrics)
                mark_done(folder, {"epochs": config.epochs})
        return dict(ranks.on_rank_zero(lambda: read_record(folder / "metrics.json")))


def _fit(
    folder: Path,
    split: Split,
    source: MapSource,
    numbers: NDArray[np.int64],
    config: FMCENetConfig,
    runtime: Runtime,
) -> FMCENet:
    """Train on the numbered maps; return the network."""
    seed_epoch(config.seed, 0)
    # One map (1,C,H,W) tells the shape of all.
    _, channels, height, width = next(iter(source.batches(numbers[:1], 1))).maps.shape
    net = FMCENet((channels, height, width), source.num_phases, width=config.width)
    net = net.to(runtime.device)
    rank_of = runtime.ranks.rank_of
    fit_resumable(
        folder,
        net,
        score_step(net),
        MapBatches(source, numbers, config.batch_size, seed=config.seed, rank_of=rank_of),
        Optimization(config.epochs, config.learning_rate, config.seed),
        runtime,
        title=f"FMCE-Net, split {split}" + ("" if net.width == 1 else f", width {net.width:g}"),
    )
    return net


def _runs_by_use(
    runs: Sequence[Run], source: MapSource, numbers: NDArray[np.int64]
) -> tuple[list[str], list[str]]:
    """Return the folders of the runs with maps among `numbers`, and of those without."""
    trained = set(numbers // (source.num_phases * source.num_images))
    uses: tuple[list[str], list[str]] = ([], [])
    for index, run in enumerate(runs):
        uses[index not in trained].append(str(run.path))
    return uses


def measure_on_test_images(
    net: FMCENet, run: Run, runtime: Runtime, config: FMCENetConfig
) -> PhaseMetrics:
    """Measure an FMCE-Net on the maps that a run's marker checkpoints give the test images.

    The run need not be the one that the FMCE-Net was trained on. Of several ranks, each measures its share.

    Raises:
        ValueError: If the run has another number of phases than the FMCE-Net.
    """
    storage = "stored" if config.storage == "stored" else "recompute"
    source = map_source([run], run.setup.data.test, runtime, config, storage=storage)
    everything = np.arange(source.num_images * source.num_phases)
    return _metrics(net, source, everything, runtime)


def _metrics(
    net: FMCENet, source: MapSource, numbers: NDArray[np.int64], runtime: Runtime
) -> PhaseMetrics:
    """Measure on the numbered maps, in any order; each rank scores its share."""
    ranks = runtime.ranks
    batches = source.batches(numbers, _SCORED_TOGETHER, rank_of=ranks.rank_of)
    # logits (share,K), phases (share,)
    logits, phases = (t.to(ranks.device) for t in score_maps(net, batches, runtime))
    logits, phases = ranks.gather_rows(logits).cpu(), ranks.gather_rows(phases).cpu()
    return phase_metrics(logits, phases, num_phases=source.num_phases)


def map_source(
    runs: Sequence[Run],
    images: ImageSet,
    runtime: Runtime,
    config: FMCENetConfig,
    *,
    storage: str | None = None,
) -> MapSource:
    """Return the FMCS-Dataset of some runs over a split's images; `storage` overrides the config's.

    Raises:
        FileNotFoundError: If stored maps are asked for and a run has none.
        ValueError: If the stored maps belong to other checkpoints or images.
    """
    storage = storage or config.storage
    if storage == "stored":
        return open_store(runs, images, runtime, config.shuffle_buffer)
    extractors = [[map_extractor(r, e, runtime) for e in r.marker_epochs] for r in runs]
    inputs = runs[0].setup.images(images, runtime)
    stream = RecomputedMaps(extractors, inputs, len(images), buffer=config.shuffle_buffer)
    return InMemoryMaps.from_source(stream) if storage == "memory" else stream


def _check_runs(runs: Sequence[Run], split: Split) -> None:
    """Refuse runs whose maps cannot join, before anything is read."""
    if split == "run" and len(runs) < 2:
        raise ValueError(
            "split 'run' holds out complete runs and needs more than one; name others with --others"
        )
    places = [run.path.resolve() for run in runs]
    twice = [str(run.path) for run in runs if places.count(run.path.resolve()) > 1]
    if twice:
        raise ValueError(
            f"{twice[-1]} is named twice; expected different runs, since one that is held out must not be "
            "trained on too"
        )
    counts = [len(run.phases.markers) for run in runs]
    if len(set(counts)) > 1:
        raise ValueError(f"the runs have {counts} phases; find equally many in each")
    ours = runs[0].config
    for run in runs:
        theirs = run.config
        check_same_data(ours, run)
        if (theirs.data.image_size, theirs.model) != (ours.data.image_size, ours.model):
            raise ValueError(
                f"{run.path} and {runs[0].path} differ in model or image size; FMCE-Net needs maps of one shape"
            )
        run.marker_weights()
