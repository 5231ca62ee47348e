"""Functions that a config names to be imported and called, and when a folder's own may be.

A name that the user gives is trusted. A run folder may be a stranger's: what its config names runs only
if the user gave the same name, or says that the folder is trusted.
"""

from collections.abc import Collection
from pathlib import Path

from fmce.config.distillation import DistillationConfig
from fmce.config.run import RunConfig
from fmce.files import refuse_links_out
from fmce.models.build import LIBRARIES

Trust = bool | Collection[str]
"""True trusts a folder; otherwise the "module:function" names that its config may have."""


def function_names(config: RunConfig | DistillationConfig) -> list[str]:
    """Return the "module:function" names of a config, which import code; others build known networks.

    >>> from fmce.config.io import with_settings
    >>> function_names(with_settings(RunConfig(), ["model.name=my.module:net"]))
    ['my.module:net']
    """
    if isinstance(config, RunConfig):
        networks, families = [config.model.name], LIBRARIES
    else:
        networks = [config.teacher.name, config.student.name]
        families = LIBRARIES if config.task == "classify" else ("fcos", "pspnet")
    named = [(name, families) for name in networks] + [(config.data.name, ("image-folder",))]
    return [name for name, known in named if ":" in name and name.partition(":")[0] not in known]


def check_trusted(folder: Path, config: RunConfig | DistillationConfig, trust: Trust) -> None:
    """Refuse a folder whose config names a function that the user did not, or whose links lead out of it.

    Args:
        folder: Where the config was read.
        config: What it says.
        trust: Whether, or for which names, the folder may run code.

    Raises:
        ValueError: If it names another function, or a folder in it is a link to one elsewhere.
    """
    if trust is not True:
        refuse_links_out(folder, "if it is yours, add --trust (in Python, trust=True)")
    unknown = [] if trust is True else set(function_names(config)) - set(trust or ())
    if unknown:
        raise ValueError(
            f"{folder / 'config.yaml'} wants to run {' and '.join(sorted(unknown))}, a function that this "
            "command does not name; if you trust who wrote the folder, name it too or add --trust "
            "(in Python, trust=True)"
        )
