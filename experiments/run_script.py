"""How every script here ends where its user made a mistake: as the command line does, with one line."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from fmce.console.log import show_messages
from fmce.engine.distributed.rank_failure import RankLostError
from fmce.engine.loop import TrainingStoppedError


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`; what its user can mend is one line and exit code 2, not a traceback.

    The variable FMCE_TRACEBACK asks for the traceback.
    """
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
        print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
