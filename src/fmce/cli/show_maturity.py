"""What the commands of method 1 print."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def show_store(path: Path, result: Mapping[str, Any]) -> None:
    """Print in one line what `extract` stored, or its estimate.

    Args:
        path: Run folder.
        result: What `fmce.feature_maps.extract.extract` returned.
    """
    from fmce.feature_maps.extract import STORE, gigabytes

    if "bytes_free" in result:
        print(
            f"{_maps(result)} would take about {gigabytes(result['bytes'])}, at most "
            f"{gigabytes(result['bytes_at_most'])}; {gigabytes(result['bytes_free'])} are free"
        )
    elif result["missing"]:
        missing = ", ".join(map(str, result["missing"]))
        print(
            f"this process's markers are stored in {path / STORE}; others still write epochs {missing}"
        )
    else:
        print(f"{_maps(result)} in {path / STORE}: {gigabytes(result['bytes'])}")


def _maps(result: Mapping[str, Any]) -> str:
    return f"{result['maps']} maps of {'×'.join(map(str, result['map_shape']))}"
