"""What each node of a Ray cluster must have before jobs go there: this package's code, and the shared folder."""

import hashlib
import secrets
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).resolve().parents[1]


class Answer(NamedTuple):
    """What a node says: the file that it wrote ("" where it sees no token), and its code's digest."""

    file: str
    code: str


def check_nodes(ray: Any, folder: Path) -> None:
    """Let every node of the cluster write into a folder, and look for what each wrote.

    Args:
        ray: the module, joined to a cluster.
        folder: shared by all nodes; made where missing.

    Raises:
        ValueError: a node cannot run this package or has other code of it than this machine, does not
            see the folder, or sees another one of that name.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder.mkdir(parents=True, exist_ok=True)
    token = f".shared-{secrets.token_hex(8)}"
    (folder / token).write_text("", encoding="utf-8")
    try:
        replies = {}
        for node in alive(ray):
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(answer).options(num_cpus=0, scheduling_strategy=where)
            replies[task.remote(folder, token)] = node
        for reply, node in replies.items():
            name = f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
            try:
                said = ray.get(reply)
            except ray.exceptions.RayError as error:
                reason = " ".join(str(error).split())[-200:]
                raise ValueError(f"the Ray node {name} cannot run fmce: {reason}") from error
            check_answer(said, folder, token, name)
    finally:
        for file in folder.glob(f"{token}*"):
            file.unlink()


def alive(ray: Any) -> list[dict[str, Any]]:
    """Return what Ray knows of each node that answers."""
    return [node for node in ray.nodes() if node["Alive"]]


def answer(folder: Path, token: str) -> Answer:
    """Answer a file beside it, from another machine."""
    if not (folder / token).exists():
        return Answer("", code_digest())
    name = f"{token}-{secrets.token_hex(8)}"
    (folder / name).write_text("", encoding="utf-8")
    return Answer(name, code_digest())


def check_answer(said: Answer, folder: Path, token: str, node: str) -> None:
    """Refuse a node that did not answer in the folder, or would train with other code.

    Args:
        said: by the node.
        folder: the shared one.
        token: the file that was to be answered.
        node: its name, for the message.

    Raises:
        ValueError: it is refused.
    """
    if said.code != code_digest():
        raise ValueError(
            f"the Ray node {node} has other code of fmce than this machine, so its rows would not be comparable; "
            "install the same version on every node"
        )
    if not (said.file.startswith(token) and (folder / said.file).exists()):
        raise ValueError(
            f"the Ray node {node} does not share the folder {folder}; put it on a file system that all nodes "
            "mount at the same path"
        )


def code_digest() -> str:
    """Return the SHA-256 of this package's source files, in hexadecimal."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(file.relative_to(PACKAGE)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
