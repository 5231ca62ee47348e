"""Jobs as tasks of a Ray cluster, whose nodes must have the same code and see the shared folder.

Ray moves a job whose worker process died to another one.
"""

import hashlib
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import fmce
from fmce.engine.jobs.job import Finished, Job

# Seconds to wait for the head of a cluster to answer; Ray itself would ask for minutes.
_ANSWERS_WITHIN = 5.0
PACKAGE = Path(fmce.__file__).resolve().parent


class RayWorkers:
    """A Ray cluster as workers: as many jobs at a time as its processors or GPUs allow."""

    def __init__(
        self,
        address: str | None = None,
        *,
        shared: Path | None = None,
        cpus: float = 1,
        gpus: float | None = None,
        max_restarts: int = 3,
    ) -> None:
        """Connect when entered.

        Args:
            address: HEAD:PORT of the cluster, or "auto" for the one that this machine is part of; None joins
                the cluster that RAY_ADDRESS names, else starts Ray on this machine alone.
            shared: Folder that every node must see; checked from each of them on entering.
            cpus: Processors that a job asks Ray for; torch gets as many threads.
            gpus: GPUs that a job asks Ray for; None takes one where the cluster has any.
            max_restarts: How often a job restarts after its worker process died.
        """
        if cpus <= 0 or (gpus is not None and gpus < 0) or max_restarts < 0:
            raise ValueError(
                f"expected cpus > 0, gpus ≥ 0 and max_restarts ≥ 0, got {cpus}, {gpus}, {max_restarts}"
            )
        self.address, self.shared = address, shared
        self.cpus, self.gpus, self.max_restarts = cpus, gpus, max_restarts
        self._names: dict[Any, str] = {}
        self._task: Any = None
        self._connected = False

    def __enter__(self) -> Self:
        """Join the cluster.

        Raises:
            ConnectionError: If no cluster answers at the address, or it refuses this process.
            ValueError: If the address is malformed, no node is large enough, or one fails `check_nodes`.
        """
        ray = _import_ray()
        if not ray.is_initialized():
            _join(ray, self.address)
            self._connected = True
        try:
            if self.shared is not None:
                check_nodes(ray, self.shared)
            if self.gpus is None:
                self.gpus = 1 if ray.cluster_resources().get("GPU", 0) > 0 else 0
            self._check_fits(ray)
        except BaseException:
            self._leave(ray)
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        ray = _import_ray()
        for reference in self._names:
            ray.cancel(reference, force=True)
        self._names.clear()
        self._leave(ray)

    def submit(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Hand a job to the cluster, which starts it as soon as a node has what it asks for."""
        if self._task is None:
            # One for all jobs: Ray warns of a function that is defined again each time.
            self._task = _import_ray().remote(
                num_cpus=self.cpus,
                num_gpus=self.gpus,
                max_retries=self.max_restarts,
                # A process stays on the GPU that it used first, whichever Ray gives it next.
                max_calls=1 if self.gpus else 0,
            )(_do)
        settings = {n: value for n, value in os.environ.items() if n.startswith("FMCE_")}
        place = (max(1, int(self.cpus)), os.getcwd(), settings)
        reference = self._task.options(name=name).remote(Job(name, function, args), *place)
        self._names[reference] = name

    def wait(self) -> Finished:
        """Return the next job that ended, or whose workers died more often than allowed."""
        ray = _import_ray()
        if not self._names:
            raise ValueError("no job is running; submit one first")
        (reference,), _ = ray.wait(list(self._names), num_returns=1)
        name = self._names.pop(reference)
        try:
            ended: Finished = ray.get(reference)
        except ray.exceptions.RayError as death:
            return Finished(name, " ".join(str(death).split())[:500], str(death))
        return ended

    def _check_fits(self, ray: Any) -> None:
        """Refuse what no node offers: Ray would wait for such a node for ever."""
        for node in alive(ray):
            has = node["Resources"]
            if has.get("CPU", 0) >= self.cpus and has.get("GPU", 0) >= (self.gpus or 0):
                return
        raise ValueError(
            f"no node of the Ray cluster has {self.cpus:g} processors and {self.gpus or 0:g} GPUs for one "
            "training; ask for fewer (--cpus, --gpus)"
        )

    def _leave(self, ray: Any) -> None:
        if self._connected:
            ray.shutdown()
            self._connected = False


def _join(ray: Any, address: str | None) -> None:
    known = address or os.environ.get("RAY_ADDRESS")
    if known not in (None, "auto", "local"):
        check_answers(str(known), ray.util.get_node_ip_address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (ConnectionError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise ConnectionError(f"cannot join the Ray cluster at {known}: {line}") from error


def check_answers(address: str, own_ip: Callable[[], str]) -> None:
    """Refuse the address HEAD:PORT of a cluster where nothing listens, within seconds.

    `own_ip` returns the address that Ray uses for this machine, in place of 127.0.0.1.

    Raises:
        ValueError: If the address has another form.
        ConnectionError: If nothing answers there.

    >>> check_answers("head", str)
    Traceback (most recent call last):
        ...
    ValueError: the address of a Ray cluster is HEAD:PORT, such as 10.0.0.5:6379, or auto, got 'head'
    """
    try:
        place = urlsplit(f"//{address.removeprefix('ray://')}")
        host, port = place.hostname, place.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise ValueError(
            f"the address of a Ray cluster is HEAD:PORT, such as 10.0.0.5:6379, or auto, got {address!r}"
        )
    if host in ("localhost", "127.0.0.1", "::1"):
        host = own_ip()
    try:
        socket.create_connection((host, port), timeout=_ANSWERS_WITHIN).close()
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at {host}:{port} ({error.strerror or error}); begin one there with "
            f"`ray start --head --port {port}`, or correct --address"
        ) from error


class Answer(NamedTuple):
    """A node's answer: whether it sees the file and may write beside it, and the digest of its code."""

    shares: bool
    code: str


def check_nodes(ray: Any, folder: Path) -> None:
    """Refuse the cluster if a node cannot run this package, has other code of it or cannot write to the folder."""
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
    """Refuse a node that does not share the folder, or would train with other code."""
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


def _do(job: Job, threads: int, folder: str, settings: Mapping[str, str]) -> Finished:
    """Do a job in a worker of the cluster; its exceptions come back as values, only deaths as Ray's.

    Data sets are looked up as where the job was submitted, not as where Ray was started on the node.
    """
    import torch

    os.environ.update(settings)
    with suppress(OSError):  # a folder that only that machine has
        os.chdir(folder)
    torch.set_num_threads(threads)
    return job.run()


def _import_ray() -> Any:
    # Without these, Ray warns that it will leave CUDA_VISIBLE_DEVICES alone in jobs without a GPU, and a
    # cluster that it starts itself sends usage statistics over the network.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--engine ray needs Ray, which is not installed; pip install 'fmce[cluster]', or leave --engine out"
        ) from error
    return ray
