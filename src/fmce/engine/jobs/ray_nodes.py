"""What each node of a Ray cluster must have before jobs go there: this package's code, and the shared folder."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Any, NamedTuple

import fmce

PACKAGE = Path(fmce.__file__).resolve().parent


class Answer(NamedTuple):
    """A node's answer: whether it sees the file and may write beside it, and the digest of its code."""

    shares: bool
    code: str


def check_nodes(ray: Any, folder: Path) -> None:
    """Ask every node of the cluster whether it sees a file that is written here.

    Args:
        ray: The module, joined to a cluster.
        folder: Shared by all nodes; made where missing.

    Raises:
        ValueError: If a node cannot run this package, has other code of it than this machine, does not
            see the folder, or may not write to it.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".shared-{secrets.token_hex(8)}"
    token.touch()
    try:
        replies = {}
        for node in alive(ray):
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(answer).options(num_cpus=0, scheduling_strategy=where)
            replies[task.remote(token)] = node
        for reply, node in replies.items():
            name = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
            try:
                check_answer(ray.get(reply), folder, name)
            except ray.exceptions.RayError as error:
                reason = " ".join(str(error).split())[-200:]
                raise ValueError(f"the Ray node {name} cannot run fmce: {reason}") from error
    finally:
        token.unlink()


def alive(ray: Any) -> list[dict[str, Any]]:
    """Return Ray's description of each node that answers."""
    return [node for node in ray.nodes() if node["Alive"]]


def answer(token: Path) -> Answer:
    """Answer from another machine; a folder of the same name that is not shared lacks the file."""
    return Answer(token.exists() and os.access(token.parent, os.W_OK), code_digest())


def check_answer(answer: Answer, folder: Path, node: str) -> None:
    """Refuse a node that does not share the folder, or would train with other code.

    Raises:
        ValueError: If the node is refused; the message names it.
    """
    if answer.code != code_digest():
        raise ValueError(
            f"the Ray node {node} has other code of fmce than this machine, so its rows would not be comparable; "
            "install the same version on every node"
        )
    if not answer.shares:
        raise ValueError(
            f"the Ray node {node} does not share the folder {folder}, or may not write to it; put it on a file "
            "system that all nodes mount at the same path"
        )


def code_digest() -> str:
    """Return the SHA-256 of this package's source files, in hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(file.relative_to(PACKAGE)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
