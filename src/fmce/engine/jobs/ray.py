"""Jobs as tasks of a Ray cluster; Ray moves a job whose worker process died to another one."""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from fmce.engine.jobs.job import Finished, Job
from fmce.engine.jobs.ray_nodes import alive, check_nodes

# Seconds to wait for the head of a cluster to answer; Ray itself would ask for minutes.
_ANSWERS_WITHIN = 5.0


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

        Raises:
            ValueError: If a number is out of its range.
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
            ValueError: If the address is malformed, no node is large enough, or a node has other code than
                this machine or does not see the shared folder.
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
        threads = max(1, int(self.cpus))
        task = self._task.options(name=name)
        reference = task.remote(Job(name, function, args), threads, os.getcwd(), _settings())
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
    """Refuse the address of a cluster where nothing listens, within seconds.

    Args:
        address: HEAD:PORT, with or without `ray://` before it.
        own_ip: Returns the address that Ray uses for this machine, in place of 127.0.0.1.

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


def _settings() -> dict[str, str]:
    """Return this package's environment variables, such as FMCE_DATA."""
    return {name: value for name, value in os.environ.items() if name.startswith("FMCE_")}


def _do(job: Job, threads: int, folder: str, settings: Mapping[str, str]) -> Finished:
    """Do a job in a worker of the cluster; its exceptions come back as values, only deaths as Ray's.

    Data sets are looked up as where the job was submitted: a node's own environment and folder are those
    of whoever started Ray there.
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
