"""This process among those that train one network together, and what they exchange.

Alone, every operation returns what it was given. `runtime.py` joins the process group.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fmce.engine.distributed.rank_failure import Peer, Peers

_T = TypeVar("_T")
# Seconds between signs of life from a rank that works alone for long.
_HEARTBEAT = 2.0


@dataclass(frozen=True)
class Ranks:
    """One process of a distributed training; all must call the same operations in the same order.

    Attributes:
        rank: Index of this process, from 0.
        world_size: Number of processes that train together.
        device: Where tensors must lie to be sent.
        peers: All of them; None alone.
        generators: By kind of device, those from which all ranks draw the same numbers.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    peers: Peers | None = None
    generators: dict[str, torch.Generator] = field(default_factory=dict, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    @property
    def local_world_size(self) -> int:
        """Number of them on this host, this one included."""
        return 1 if self.peers is None else len(self.peers.local())

    @property
    def rank_of(self) -> tuple[int, int]:
        """Rank and world size, as batches take them."""
        return self.rank, self.world_size

    def seed(self, number: int) -> None:
        """Seed the generators of which all ranks draw the same; `number` is one process's own seed."""
        for kind in {"cpu", self.device.type} if self.world_size > 1 else ():
            device = self.device if kind == self.device.type else torch.device(kind)
            self.generators[kind] = torch.Generator(device).manual_seed(number)

    def generator(self, device: torch.device) -> torch.Generator:
        """Return the generator of a device of which all ranks draw the same; alone, torch's own."""
        if self.world_size > 1:
            return self.generators[device.type]
        if device.type == "cuda":
            return torch.cuda.default_generators[device.index or 0]
        return torch.default_generator

    def all_reduce(self, values: Tensor) -> Tensor:
        """Add up the tensors of all ranks, in place, and return them."""
        if self.world_size > 1:
            with self._reachable():
                dist.all_reduce(values)
        return values

    def mean(self, value: Tensor, weight: Tensor | float) -> Tensor:
        """Return the mean of a scalar over all ranks, each with its weight; a weight of 0 takes no part."""
        if self.world_size == 1:
            return value
        # Filled there: a number copied to a GPU would make the host wait for it.
        own = torch.zeros((), dtype=torch.float64, device=value.device) + weight
        part = torch.where(own > 0, value.detach().double() * own, 0.0)
        total = self.all_reduce(torch.stack([part, own]))
        return (total[0] / total[1]).to(value.dtype)

    def all_gather(self, values: Tensor) -> Tensor:
        """Return the tensors (…) of all ranks, alike in shape, as one (world_size,…)."""
        if self.world_size == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.world_size)]
        with self._reachable():
            dist.all_gather(parts, values)
        return torch.stack(parts)

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Return the rows (N,…) of all ranks one after another; N may differ between them."""
        if self.world_size == 1:
            return rows
        sizes = self.all_gather(torch.tensor([len(rows)], device=rows.device)).flatten().tolist()
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = self.all_gather(padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def all_gather_objects(self, value: _T) -> list[_T]:
        """Return each rank's value, in the order of ranks; for small things on the host."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        with self._reachable():
            dist.all_gather_object(found, value)
        return found

    def on_rank_zero(self, action: Callable[[], _T]) -> _T:
        """Call `action` on the first rank alone; its result, or its error, becomes everyone's."""
        if self.world_size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = action()
            except Exception as error:
                outcome[1] = error
        with self._reachable():
            dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]  # type: ignore[no-any-return]

    def on_rank_zero_slowly(self, action: Callable[[], _T]) -> _T:
        """As `on_rank_zero`, for an action that may take longer than ranks wait for one another."""
        if self.world_size == 1:
            return action()
        result: Future[_T] = Future()

        def resolve() -> None:
            try:
                result.set_result(action())
            except Exception as error:
                result.set_exception(error)

        if self.is_main:
            threading.Thread(target=resolve, daemon=True).start()
        # The first rank reports every few seconds that it is alive, and so do the others.
        while not self.on_rank_zero(lambda: not wait([result], timeout=_HEARTBEAT).not_done):
            pass
        return self.on_rank_zero(result.result)

    def barrier(self) -> None:
        """Wait until all ranks have come here."""
        if self.world_size > 1:
            self.all_reduce(torch.zeros(1, device=self.device)).item()

    @torch.no_grad()
    def broadcast_parameters(self, model: nn.Module) -> None:
        """Give all ranks the first one's parameters and buffers."""
        if self.world_size == 1:
            return
        with self._reachable():
            for tensor in model.state_dict().values():
                contiguous = tensor.contiguous()
                dist.broadcast(contiguous, src=0)
                tensor.copy_(contiguous)

    @torch.no_grad()
    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up all ranks' gradients; a parameter without one has none on any rank."""
        if self.world_size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        # One message: for a network of a hundred layers, one per layer would cost more than its bytes.
        flat = self.all_reduce(torch.cat([g.flatten() for g in gradients]))
        parts = flat.split_with_sizes([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Turn the many errors of a lost connection into one that says what to do next."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise  # this rank's own
        except RuntimeError as error:
            assert self.peers is not None
            raise self.peers.end_after(error) from error


ALONE = Ranks()


def current_ranks(device: torch.device) -> Ranks:
    """Return this process among those of the default process group; alone where there is none.

    Args:
        device: Where this process trains; with NCCL that is its GPU.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return ALONE
    home = device if dist.get_backend() == "nccl" else torch.device("cpu")
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), home)
    return replace(ranks, peers=known_peers(ranks))


def known_peers(ranks: Ranks, timeout: float = 600.0) -> Peers:
    """Let all processes tell each other who they are.

    Args:
        ranks: This process among them.
        timeout: Seconds that they wait for one another.
    """
    me = Peer(ranks.rank, socket.gethostname(), os.getpid())
    return Peers(me, tuple(ranks.all_gather_objects(me)), timeout)
