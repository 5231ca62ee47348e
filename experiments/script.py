"""What all experiments share: options, rows and how a script ends.

Trainings are run folders below --out. A finished one is reused and an interrupted one resumes, so rerunning a
command only does what is missing.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.result_rows import record_result
from fmce.config.io import to_dict
from fmce.console.log import show_messages
from fmce.engine.distributed.rank_failure import RankLostError
from fmce.engine.loop import TrainingStoppedError
from fmce.fmce_net_pp.sweep.results import Comparison

RESULTS = Path(__file__).resolve().parent.parent / "results"


def options_parser(doc: str, results: str, out: str | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options that every script has: --out and --results; its help shows `doc`."""
    parser = argparse.ArgumentParser(
        description=doc.splitlines()[0],
        epilog=doc.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = f" ({out})" if out else ""
    parser.add_argument(
        "--out", type=Path, default=out and Path(out), help=f"folder of runs{where}"
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS / results, help="file of the rows (%(default)s)"
    )
    return parser


def record(
    results: Path, experiment: str, what: str, config: Any, result: Any, **about: Any
) -> None:
    """Record one row in place of an earlier one of the same experiment and description.

    `about` is more of the description, such as data, model and seed. Where the row covers several seeds, their
    list is no part of what tells rows apart.
    """
    values = config if isinstance(config, dict) else to_dict(config)
    row = {"experiment": experiment, "what": what, **about, "result": result, "config": values}
    told_apart = [name for name, value in about.items() if not isinstance(value, list)]
    record_result(results, row, key=("experiment", "what", *told_apart))
    print(
        f"recorded: {', '.join([what, *(f'{name} {about[name]}' for name in told_apart)])}",
        flush=True,
    )


def portable(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as a row holds it: without paths of this machine."""
    values = comparison.to_dict()
    del values["oracle"]
    for row in (*values["rows"], *values["same_seed"]):
        del row["folder"]
    return values


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; report a user's mistake in one line with exit code 2."""
    show_messages()
    try:
        main()
    except (
        ValueError,
        OSError,
        ModuleNotFoundError,
        TrainingStoppedError,
        RankLostError,
    ) as error:
        if os.environ.get("FMCE_TRACEBACK"):
            raise
        print(f"{Path(sys.argv[0]).stem}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
