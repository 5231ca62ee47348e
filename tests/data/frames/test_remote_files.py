"""Shards at an address whose server fails: what is tried again, what is damage and what an outage."""

import http.server
import socket
import threading

import pytest

from fmce.data.frames import remote_files
from fmce.data.frames.pool import FramePool
from fmce.data.frames.remote_files import UnreachableError
from fmce.data.frames.shards import ShardReader, index_shard, open_shards, write_index, write_shard
from fmce.data.frames.table import FrameTable, ShardFrames

pytest.importorskip("webdataset")
pytest.importorskip("aiohttp")

WAITS = remote_files.WAITS
CONTENT = [bytes([number]) * 600 for number in range(20)]


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, ranges too; `faults` says what goes wrong with the next requests of tars."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.faults, self.requests = folder, [], 0
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        path = self.server.folder / self.path.rsplit("/", 1)[-1]
        self.server.requests += 1
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "drop":
            return self._hang_up()
        if fault is not None and fault != "cut":
            return self._answer(fault, b"")
        if not path.exists():
            return self._answer(404, b"")
        whole = path.read_bytes()
        if "Range" not in self.headers:
            return self._answer(200, whole, fault)
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        if first >= len(whole):
            return self._answer(416, b"")
        return self._answer(206, whole[first : last + 1], fault)

    def _answer(self, status, body, fault=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        if fault == "cut":
            self._hang_up()

    def _hang_up(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_shard(folder / "a-0000.tar", ((f"a-{i:07d}", raw) for i, raw in enumerate(CONTENT)))
    write_index(folder, [index_shard(folder / "a-0000.tar", "a", 0, 1)], {})
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch, server):
    monkeypatch.setattr(remote_files, "WAITS", (0.0,) * 5)
    server.faults, server.requests = [], 0


@pytest.mark.parametrize("fault", ["drop", "cut", 503, 429])
def test_requests_that_fail_are_tried_again(server, fault):
    server.faults = [fault] * 4
    opened = open_shards(server.address)
    server.faults = [fault] * 5
    assert ShardReader(opened).fetch(opened.shards[0], 0) == CONTENT[:16]
    assert server.requests == 5 + 6


@pytest.mark.parametrize("fault", ["drop", "cut", 503])
def test_an_outage_is_no_damage(server, fault):
    opened = open_shards(server.address)
    server.faults = [fault] * 100
    with pytest.raises(
        UnreachableError, match=r"a-0000\.tar cannot be reached \(6 tries.*rerun the command"
    ):
        ShardReader(opened).fetch(opened.shards[0], 0)
    pool = FramePool(FrameTable([ShardFrames(opened)]), 8, 8, max_damaged=1.0)
    with pytest.raises(UnreachableError):
        pool.in_memory()
    with pytest.raises(UnreachableError, match=r"shards\.json cannot be reached"):
        open_shards(server.address)


def test_an_outage_that_ends_at_the_last_moment_costs_no_frame(server):
    opened = open_shards(server.address)
    server.faults = [503] * 6  # all tries; then the file is there again
    assert ShardReader(opened).fetch(opened.shards[0], 1) == CONTENT[16:]


def test_a_refusal_is_told_at_once(server):
    opened = open_shards(server.address)
    server.faults, server.requests = [403] * 9, 0
    with pytest.raises(UnreachableError, match=r"tried once.*403"):
        ShardReader(opened).fetch(opened.shards[0], 0)
    assert server.requests == 2


def test_a_shard_that_is_cut_off_on_the_server_is_damage_of_its_lost_frames(server):
    opened = open_shards(server.address)
    path = server.folder / "a-0000.tar"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: opened.shards[0].offsets[1]])
        reader = ShardReader(opened)
        assert reader.fetch(opened.shards[0], 0) == CONTENT[:16]
        assert reader.fetch(opened.shards[0], 1) == [b""] * 4
        path.unlink()
        assert reader.fetch(opened.shards[0], 0) == [b""] * 16
    finally:
        path.write_bytes(whole)


def test_the_waits_outlast_a_short_outage_and_not_anybodys_patience():
    assert 10 < sum(WAITS) < 30
    assert max(WAITS) <= 8  # Ctrl-C waits for the threads that wait
