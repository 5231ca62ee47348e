"""What is refused before a job is handed to a Ray cluster; the cluster itself: tests/end_to_end/test_ray_sweep.py."""

import importlib.util
import socket
import sys

import pytest

from fmce.cli.main import main
from fmce.engine.jobs.ray import (
    PACKAGE,
    RayWorkers,
    answer,
    check_answer,
    check_answers,
    code_digest,
)
from fmce.fmce_net_pp.sweep.run import make_workers


@pytest.fixture
def free_port():
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:99999", "head:port", "ray://"])
def test_an_address_without_host_or_port_is_refused(address):
    with pytest.raises(ValueError, match=r"is HEAD:PORT, such as 10\.0\.0\.5:6379, or auto, got"):
        check_answers(address, lambda: "127.0.0.1")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}", "[::1]:{}"])
def test_an_address_where_nobody_listens_is_refused_at_once(form, free_port):
    with pytest.raises(ConnectionError, match=f"no Ray cluster answers at 127.0.0.1:{free_port}"):
        check_answers(form.format(free_port), lambda: "127.0.0.1")


def test_this_machine_is_looked_for_where_ray_will_look():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_answers(f"127.0.0.1:{port}", lambda: "127.0.0.1")
        with pytest.raises(ConnectionError, match=f"answers at 127.0.0.2:{port}"):
            check_answers(f"127.0.0.1:{port}", lambda: "127.0.0.2")


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray (the extra `cluster`)"
)
def test_a_wrong_address_is_one_line(tmp_path, capsys, free_port):
    given = ["--engine", "ray", "--address", f"127.0.0.1:{free_port}"]
    with pytest.raises(SystemExit) as end:
        main(["sweep", "--out", str(tmp_path / "out"), *given])
    assert end.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "fmce: no Ray cluster answers at" in said[0]
    assert f":{free_port} (" in said[0]
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as end:
        main(["sweep", "--out", str(tmp_path / "out"), "--engine", "ray"])
    assert end.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "pip install 'fmce[cluster]', or leave --engine out" in said[0]


@pytest.mark.parametrize("values", [{"cpus": 0}, {"gpus": -1}, {"max_restarts": -1}])
def test_what_a_job_asks_for_must_make_sense(values):
    with pytest.raises(ValueError, match="expected cpus > 0, gpus ≥ 0 and max_restarts ≥ 0"):
        RayWorkers(**values)


@pytest.mark.parametrize(
    ("device", "asked", "gpus"), [("cpu", None, 0), ("auto", None, None), ("cpu", 1.0, 1.0)]
)
def test_trainings_on_processors_ask_for_no_gpu(tmp_path, device, asked, gpus):
    assert make_workers("ray", tmp_path, None, device, gpus=asked).gpus == gpus


def test_a_node_answers_in_the_shared_folder_and_not_in_another(tmp_path):
    (tmp_path / "token").touch()
    check_answer(answer(tmp_path / "token"), tmp_path, "node")
    elsewhere = answer(tmp_path / "elsewhere" / "token")
    with pytest.raises(ValueError, match=rf"node 10\.0\.0\.7 does not share the folder {tmp_path}"):
        check_answer(elsewhere, tmp_path, "10.0.0.7")


def test_a_node_with_other_code_is_refused(tmp_path, monkeypatch):
    (tmp_path / "token").touch()
    (tmp_path / "__init__.py").write_text("older = True\n")
    ours = code_digest()
    assert PACKAGE / "cli" / "main.py" in PACKAGE.rglob("*.py")  # all of the package
    with monkeypatch.context() as there:
        there.setattr("fmce.engine.jobs.ray.PACKAGE", tmp_path)
        theirs = answer(tmp_path / "token")
    assert theirs.code != ours
    with pytest.raises(
        ValueError, match=r"node 10\.0\.0\.7 has other code of fmce than this machine"
    ):
        check_answer(theirs, tmp_path, "10.0.0.7")
