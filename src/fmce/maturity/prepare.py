"""Everything that is settled and checked before a training of the original task claims its folder."""

from dataclasses import asdict, fields, replace
from pathlib import Path

from torch import nn

from fmce.config.run import RunConfig, RuntimeConfig
from fmce.config.trust import function_names
from fmce.console.log import logger
from fmce.data.classification.classification import download_data
from fmce.digests import file_digest
from fmce.engine.runtime import Runtime
from fmce.models.checks import check_channels_last, check_classifier
from fmce.runs.checkpoint import checkpoint_path, weights_digest
from fmce.runs.run import Run, check_same_data, open_run
from fmce.seeding import seed_epoch


def prepare(
    config: RunConfig, out: Path, runtime: Runtime, *, download: bool = False
) -> tuple[Run, nn.Module, Runtime]:
    """Complete the config, read the data, build the network and check that they fit together.

    Nothing is written. The oracle's network is checked when `training_step` loads it.

    Returns:
        The run with the config as it will be recorded, the network with fresh weights on the device,
        and the runtime that computes passes as the config says.

    Raises:
        ValueError: If the config does not fit the data, the network or the oracle.
        FileNotFoundError: If data or the oracle's weights are missing.
    """
    config, runtime = merge_runtime(config, runtime)
    if runtime.cuda_graphs and (runtime.device.type != "cuda" or runtime.ranks.world_size > 1):
        raise ValueError(
            f"runtime.cuda_graphs needs one GPU and one process, got device {runtime.device.type} and "
            f"{runtime.ranks.world_size} processes; set runtime.cuda_graphs=false"
        )
    run = Run(out, with_oracle_digest(config))
    if download:
        # A download may take longer than ranks wait for one another.
        runtime.ranks.on_rank_zero_slowly(lambda: download_data(config.data.name, config.data.root))
    data, classes = run.training.data, len(run.training.data.class_names)
    if data.source:
        logger.info(
            "data %s: %d train, %d validation, %d test images of %d classes from %s",
            *(data.name, len(data.train), len(data.validation), len(data.test)),
            *(classes, data.source),
        )
    seed_epoch(config.train.seed, 0)
    model = run.training.new_model()  # before the oracle: same weights in both arms
    if runtime.channels_last or runtime.compile:
        check_channels_last(model, runtime.device)
    model = runtime.to_device(model)
    check_classifier(
        model, config.data.image_size, classes, (len(data.train), config.train.batch_size)
    )
    run.training.map_shape(model)  # a layer that gives no maps is reported now, not epochs later
    return run, model, runtime


def merge_runtime(config: RunConfig, runtime: Runtime) -> tuple[RunConfig, Runtime]:
    """Make config and runtime agree on how passes are computed; the config is what is recorded.

    Where the runtime differs from the defaults, it decides; elsewhere the config does.
    """
    values = {f: getattr(runtime, f.name) for f in fields(RuntimeConfig)}
    chosen = {f.name: value for f, value in values.items() if value != f.default}
    section = replace(config.runtime, **chosen)
    return replace(config, runtime=section), replace(runtime, **asdict(section))


def with_oracle_digest(config: RunConfig) -> RunConfig:
    """Return the config as its run folder keeps it: with the digest of the oracle's weights."""
    auxiliary = config.auxiliary
    if auxiliary.oracle is None:
        return config
    oracle = open_run(str(auxiliary.oracle), trust=function_names(config))
    check_same_data(config, oracle)
    if config.train.seed == oracle.config.train.seed and not auxiliary.same_seed:
        raise ValueError(
            f"seed {config.train.seed} is the oracle's own seed, so this arm would only be pulled towards its "
            "own checkpoint; choose another --seed, or allow it with --set auxiliary.same_seed=true"
        )
    if auxiliary.kind == "feature_matching":
        checkpoint = checkpoint_path(oracle.path / "checkpoints", oracle.phases.convergence_epoch)
        weights = checkpoint / "model.safetensors"
        if not weights.exists():
            raise FileNotFoundError(f"feature matching needs {weights}, checkpoint E_K")
        weights_digest(checkpoint)
    else:
        oracle.fmce_net(auxiliary.oracle_split, auxiliary.oracle_width)
        weights = oracle.fmce_net_file(auxiliary.oracle_split, auxiliary.oracle_width)
    return replace(config, auxiliary=replace(auxiliary, oracle_digest=file_digest(weights)))
