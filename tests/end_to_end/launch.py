"""Starting two processes by torchrun, and finding one of them."""

import os
import subprocess
import sys
import time
from pathlib import Path


def torchrun(*arguments):
    """Start two processes on this machine."""
    options = ["--nproc-per-node=2", "--local-addr=127.0.0.1"]
    options += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]  # any free port
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FMCE_RANK_TIMEOUT": "60"},
    )


def ended(process, seconds=400):
    try:
        return process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def rank_process(launcher, rank):
    """Return the process of a rank that torchrun started."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            variables = folder.joinpath("environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher.pid and f"RANK={rank}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


def wait_for(path, process, seconds=90):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
