"""Batches from a pool of frames in files: threads fetch and processes decode ahead of the training.

The contents of a batch depend on its number alone, neither on the workers nor on where a training resumed.
"""

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fmce.data.augmentation import Augmentation, StepBatches, augmentation_generator
from fmce.data.batch import PoolBatch
from fmce.data.batch_slice import BatchSlice
from fmce.data.frames.order import FrameOrder
from fmce.data.frames.pool import FramePool, decode_batch
from fmce.data.frames.table import Numbers, Payload
from fmce.data.image_files import ReadFailures, UnreadableDataError

# Concurrent reads: enough to hide the latency of an object store.
_FETCHERS = 8
# Batches that each worker prepares in advance.
_AHEAD = 4


class _Job(NamedTuple):
    """This rank's rows of a batch to decode: its step, and numbers (B,) and contents of its frames."""

    step: int
    frames: Tensor
    payloads: list[Payload]


class _Decoded(NamedTuple):
    """Images uint8 or augmented float32 (B,3,H,W), None where all frames are damaged; row and reason of damage."""

    images: Tensor | None
    frames: Tensor
    damaged: list[tuple[int, str]]


@dataclass(eq=False)
class _Decoder(Dataset[_Decoded]):
    """The work of a worker process; it holds no frames, so its memory does not grow with the pool."""

    height: int
    width: int
    augmentation: Augmentation | None
    seed: int
    batch_slice: BatchSlice

    def __getitem__(self, job: _Job) -> _Decoded:
        images, damaged = decode_batch(job.payloads, self.height, self.width)
        if not images:
            return _Decoded(None, job.frames, damaged)
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        if self.augmentation is not None:
            generator = augmentation_generator(torch.device("cpu"), self.seed, job.step)
            stacked, _ = self.augmentation(stacked, None, generator, self.batch_slice)
        return _Decoded(stacked, job.frames, damaged)


class FrameBatches(StepBatches[FramePool]):
    """Augmented batches of a pool in files, in the order of `FrameOrder`; each rank reads its own rows.

    Attributes:
        failures: Counts of reads and damaged frames.
        waited_seconds: How long `epoch` has kept its caller waiting for batches.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes, window = self.pool.table.sizes, self.pool.shuffle_buffer
        self.order = FrameOrder(
            sizes, window, self.batch_size, seed=self.seed, rank_of=self.rank_of
        )
        self.failures = ReadFailures(self.pool.max_damaged)
        self.waited_seconds = 0.0
        self._next_step = -1
        self._jobs: Iterator[_Job] | None = None
        self._decoded: Iterator[_Decoded] | None = None

    def epoch(self, epoch: int) -> Iterator[PoolBatch]:
        """Yield the batches of the 1-based interval `epoch`.

        Workers continue with the next interval meanwhile; if another one is requested, they restart there.

        Raises:
            UnreadableDataError: If more reads than the pool's rate failed.
        """
        first = (epoch - 1) * self.interval
        for step in range(first, first + self.interval):
            started = time.perf_counter()
            batch = self._on_device(self._take(step), step)
            self.waited_seconds += time.perf_counter() - started
            yield batch

    def close(self) -> None:
        """End the worker processes and threads; another `epoch` restarts them."""
        self._decoded, jobs, self._jobs = None, self._jobs, None
        if jobs is not None:
            jobs.close()  # type: ignore[attr-defined]

    def _take(self, step: int) -> _Decoded:
        if self._decoded is None or step != self._next_step:
            self._start(step)
        assert self._decoded is not None
        decoded = next(self._decoded)
        self._next_step = step + 1
        self._count(decoded)
        return decoded

    def _start(self, step: int) -> None:
        self.close()
        workers, on_gpu = self.pool.workers, self.home.type == "cuda"
        augmentation = None if on_gpu else self.augmentation
        decoder = _Decoder(
            self.pool.height, self.pool.width, augmentation, self.seed, self.batch_slice
        )
        self._jobs = self._read(step)
        loader = DataLoader(
            decoder,
            batch_size=None,
            sampler=self._jobs,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=on_gpu,
            worker_init_fn=_start_worker,
            prefetch_factor=_AHEAD if workers else None,
            # Forking a process with threads, such as those that fetch, may deadlock.
            multiprocessing_context=_fork_server() if workers else None,
            # Otherwise starting workers would draw from the generator of the training.
            generator=torch.Generator(),
        )
        with _without_script():
            self._decoded = iter(loader)

    def _read(self, step: int) -> Iterator[_Job]:
        """Yield the contents of batches from a step on, while the next window is fetched."""
        threads = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch-frames")
        own = self.batch_slice.rows.stop - self.batch_slice.rows.start
        try:
            contents = self._contents(threads, step)
            for number in itertools.count(step):
                frames, payloads = zip(*itertools.islice(contents, own), strict=True)
                yield _Job(number, torch.tensor(frames), list(payloads))
        finally:
            # Without waiting: the garbage collector may run this in one of these threads.
            threads.shutdown(wait=False, cancel_futures=True)

    def _contents(self, threads: ThreadPoolExecutor, step: int) -> Iterator[tuple[int, Payload]]:
        table = self.pool.table

        def fetch(window: Numbers) -> dict[int, Future[list[Payload]]]:
            chunks = np.unique(table.chunk_of(window)).tolist()
            return {chunk: threads.submit(table.fetch, chunk) for chunk in chunks}

        windows = ((window, fetch(window)) for window in self.order.windows(step))
        for (window, fetched), _ahead in itertools.pairwise(windows):
            for number, chunk in zip(window.tolist(), table.chunk_of(window).tolist(), strict=True):
                yield number, fetched[chunk].result()[number - int(table.starts[chunk])]

    def _count(self, decoded: _Decoded) -> None:
        for _ in range(len(decoded.frames) - len(decoded.damaged)):
            self.failures.succeeded()
        for place, reason in decoded.damaged:
            self.failures.failed(int(decoded.frames[place]), OSError(reason), self.pool.table.key)

    def _on_device(self, decoded: _Decoded, step: int) -> PoolBatch:
        images = self._standing_in(decoded, step) if decoded.images is None else decoded.images
        if images.dtype == torch.uint8:  # views on a GPU, queued behind the step that it works on
            images = images.to(self.home, non_blocking=True)
            generator = augmentation_generator(self.home, self.seed, step)
            images, _ = self.augmentation(images, None, generator, self.batch_slice)
        return PoolBatch(images, None, decoded.frames)

    def _standing_in(self, decoded: _Decoded, step: int) -> Tensor:
        """Return images for a rank's rows of which no frame can be read."""
        first, count = int(decoded.frames[0]), len(decoded.frames)
        if count == self.batch_size:
            raise UnreadableDataError(
                f"none of the {count} frames of step {step} can be read, first {self.pool.table.key(first)}: "
                f"{decoded.damaged[0][1]}"
            )
        # A rank may have only a frame or two, and those of the other ranks are not available here.
        return self.pool.in_memory([first]).images.expand(count, -1, -1, -1)


def default_workers(cores: int) -> int:
    """Return the number of processes that decode: one per core but the trainer's, at most 8.

    >>> default_workers(2), default_workers(16)
    (1, 8)
    """
    return max(1, min(8, cores - 1))


def _as_it_is(decoded: Any) -> Any:
    return decoded


def _start_worker(_number: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the trainer handles what the group gets
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    """End this worker when the trainer has ended, even if it was killed.

    The data loader watches the fork server instead, which lives as long as its forks.
    """
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        trainer.join()
        os._exit(1)


@contextmanager
def _without_script() -> Iterator[None]:
    """Hide the program's main module: multiprocessing would run a script again in each new worker."""
    script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _fork_server() -> Any:
    context = multiprocessing.get_context("forkserver")
    # Imported once, by the server: its forks start in milliseconds.
    context.set_forkserver_preload([__name__])
    return context
