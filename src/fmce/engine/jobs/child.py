"""Entry of a process that does jobs for another: `python -m fmce.engine.jobs.child DESCRIPTOR THREADS`.

Jobs come through the connection of that descriptor, one after another, and each one's end is sent back.
The process ends with the one that started it, however that ended.
"""

import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue

from fmce.engine.jobs.job import Job


def main(descriptor: int, threads: int) -> None:
    """Do the jobs of a connection with that many threads of torch."""
    # Ctrl-C and a scheduler's notice reach the group, and are for the parent to handle.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    connection = Connection(descriptor)
    jobs: SimpleQueue[Job] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, jobs), daemon=True).start()
    import torch

    # Processes side by side share the cores.
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    while True:
        connection.send(jobs.get().run())


def _receive(connection: Connection, jobs: "SimpleQueue[Job]") -> None:
    """Pass jobs on; end the process once the parent is gone, whatever the main thread does then."""
    try:
        while True:
            jobs.put(connection.recv())
    except EOFError:
        pass
    except Exception:
        traceback.print_exc()  # a job that cannot be imported here; the parent quotes the last lines
    os._exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
