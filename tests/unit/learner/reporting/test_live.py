"""The page that follows a run: who may ask, what is told in each state of a run, and that nothing ends it."""

import contextlib
import dataclasses
import fcntl
import gzip
import http.client
import json
import os
import shutil
import socket
import struct
import threading
import time

import pytest

from actors import acting
from actors.acting import Acts
from envs.records import Durations, Outcome, State, StepResult
from learner.reporting.live import Live, WatchError
from learner.reporting.serving import Server
from learner.run import status, transitions
from learner.run.status import Stage, Status
from learner.run.status import State as Result
from learner.watch import main
from tests.unit.fake_run import EDIT, make

CAME_OF_IT = StepResult("edit", Outcome.EDITED, 0.5, 0.75, "", "red\x07", Durations(), State("s", "wine", "s"))


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make(tmp_path_factory.mktemp("runs") / "quickstart", steps=2, actions=4)


@contextlib.contextmanager
def served(run_dir):
    with Server(Live(run_dir)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()


def ask(server, path, token=None, method="GET"):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={} if token is None else {"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    body = answer.read()
    packed = answer.headers["Content-Encoding"] == "gzip"
    return answer.status, answer.headers, gzip.decompress(body).decode() if packed else ""


def told(server, path):
    code, _, body = ask(server, path, server.token)
    return code, json.loads(body)


@contextlib.contextmanager
def running(run_dir, **fields):
    """A run that its driver has, in the middle of RL."""
    now = time.time()
    stages = (Stage("fine-tune", now - 90, 10, done=10, ended=now - 60), Stage("reinforce", now - 60, 4, done=2))
    of_it = {
        "result": Result.RUNNING,
        "stages": stages,
        "rewards": (0.2, 0.4),
        "doing": "trains",
        "doing_since": now - 3,
    }
    status.write(run_dir / "status.json", Status("run", now - 100, written=now, **of_it | fields))
    with (run_dir / status.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_only_this_machine_and_only_the_token_are_answered_and_nothing_but_reading(finished):
    with served(finished) as server:
        assert server.server_address[0] == "127.0.0.1"
        code, headers, page = ask(server, "/")
        assert code == 200 and "default-src 'none'" in page and "connect-src 'self'" in page
        assert headers["Content-Security-Policy"] == "frame-ancestors 'none'" and headers["Cache-Control"] == "no-store"
        assert "quickstart" not in page, "the page itself tells nothing of the run"
        for path in ("/now", "/index/1", "/block/1", "/plot/reward"):
            assert [ask(server, path, token)[0] for token in (None, "", "x", server.token)] == [401, 401, 401, 200]
        for method in ("POST", "PUT", "DELETE"):
            assert ask(server, "/now", server.token, method)[0] == 501
        for path in (
            "/index/..%2fbase",
            "/block/../../config.yaml",
            "/index/7",
            "/plot/x",
            "/other",
            "/index/",
            "/now/x",
        ):
            code, answer = told(server, path)
            assert code == 404 and answer["error"]


def test_a_run_is_told_while_it_lasts_and_what_it_tried_is_what_it_wrote(finished, tmp_path):
    run_dir = shutil.copytree(finished, tmp_path / "run")
    figures = {"stream_ready": 3.0, "stream_in_flight": 5.0}
    with running(run_dir, experiments=2, queued=9, actors_alive=1, actors_total=1, figures=figures):
        now = Live(run_dir).now()
    cards = {label: (value, note) for label, value, note in now["cards"]}
    assert now["state"] == "running" and not now["silent"]
    assert cards["learner"] == ("trains (3s)", "groups: 3 ready, 5 sampled or run; a step takes 4")
    assert cards["experiments"] == ("2 run, 9 wait", "1 of 1 actors up") and cards["training reward"][0] == "0.400"
    assert [(s["name"], s["count"], s["share"]) for s in now["stages"]] == [
        ("fine-tune", "10/10", 1.0), ("reinforce", "2/4", 0.5),
    ]  # fmt: skip
    assert [part for part, _ in now["parts"]] == ["base", "sft", 1, 2, "rl"]
    with served(run_dir) as server:
        killed = told(server, "/now")[1]
        assert killed["state"] == "failed" and killed["stages"][-1]["when"] == "1m00s", "nothing is left of it"
        written = transitions.read_part(run_dir, 2)
        assert told(server, "/index/2")[1]["id"] == [row["id"] for row in written]
        block = told(server, "/block/2")[1]
        assert [row["log"] for row in block["rows"]] == [row["log_tail"] for row in written]
        assert "You improve a machine-learning script" in block["prompts"][0]
        for name, *_ in now["plots"]:
            svg = told(server, f"/plot/{name}")[1]["svg"]
            assert svg.startswith("<svg") or (name == "held_out" and not svg)


def test_what_actors_do_and_tried_is_told_as_long_as_the_run_lasts(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(acting, "INTERVAL", 0.005)
    run_dir = shutil.copytree(finished, tmp_path / "run")
    live, acts = Live(run_dir), Acts("actor-0", run_dir)
    with running(run_dir), acts.doing("group-000007/001", "wine"):
        acts.tried("group-000006/000", "wine", EDIT, CAME_OF_IT, 0.9)
        wait_for(lambda: live.now()["tried"])
        now = live.now()
    ((task, part, _, *by),) = now["doing"]
    assert (task, part, by) == ("wine", "proposal", ["actor-0", "group-000007/001"])
    (tried,) = now["tried"]
    assert (tried["id"], tried["reward"], tried["before"], tried["after"]) == ("group-000006/000", 0.9, 0.5, 0.75)
    assert ("same", "model.fit(x_train, y_train)") in tried["diff"], "an edit is shown as what it changes"
    assert tried["log"] == "red\\x07"
    assert "doing" not in live.now(), "nothing is left of it"
    acts.close()


def test_what_changes_has_another_version_and_is_read_anew(finished, tmp_path):
    run_dir = shutil.copytree(finished, tmp_path / "run")
    live = Live(run_dir)
    before = dict(live.now()["parts"])
    assert live.index(2) is live.index(2), "it is read once"
    first = transitions.path(run_dir, 1)
    os.replace(first, transitions.path(run_dir, 2))  # as a resumed run writes a step again
    after = dict(live.now()["parts"])
    assert set(after) == set(before) - {1} and after[2] != before[2] and after["base"] == before["base"]
    assert set(live.index(2)["step"]) == {1}


def test_a_run_that_has_not_begun_one_that_is_moved_and_damaged_files_end_nothing(finished, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    shutil.copy(finished / "config.yaml", run_dir)
    with served(run_dir) as server:
        assert told(server, "/now") == (200, {"run": "run", "state": "waiting"})
        with running(run_dir, stages=(), rewards=(), doing=""):
            assert told(server, "/now")[1]["cards"] == [] and told(server, "/now")[1]["parts"] == []
        damaged = run_dir / "evaluation.json"
        damaged.write_text("{")
        assert told(server, "/now") == (404, {"error": f"a file of {run_dir} is damaged: {damaged} is damaged: "
            "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"})  # fmt: skip
        shutil.copytree(finished, run_dir, dirs_exist_ok=True)
        assert told(server, "/now")[1]["state"] == "done"
        file = transitions.path(run_dir, 1)
        file.write_bytes(file.read_bytes()[:-10])
        code, answer = told(server, "/index/1")
        assert code == 404 and f"{file} is damaged" in answer["error"]
        run_dir.rename(tmp_path / "aside")
        assert told(server, "/now")[1]["state"] == "waiting"


def test_a_browser_that_leaves_and_a_failure_that_nobody_foresaw_cost_one_answer(finished, capfd, monkeypatch):
    ended, end = threading.Semaphore(0), Server.shutdown_request

    def then_told(server, request):  # a failure is printed before
        end(server, request)
        ended.release()

    monkeypatch.setattr(Server, "shutdown_request", then_told)
    with served(finished) as server:
        monkeypatch.setattr(server.live, "plot", lambda name: {}[name])
        code, answer = told(server, "/plot/reward")
        assert code == 500 and answer["error"] == "mlagent watch failed at /plot/reward: KeyError: 'reward'"
        assert told(server, "/index/" + "9" * 5000)[0] == 500
        with socket.create_connection(server.server_address) as leaving:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it is reset
            leaving.sendall(b"GET / HTTP/1.1\r\n")
        assert told(server, "/now")[0] == 200
        assert all(ended.acquire(timeout=20) for _ in range(4)), "of each of these four"
    assert capfd.readouterr().err == ""


def test_a_driver_that_says_nothing_is_told(finished, tmp_path):
    run_dir = shutil.copytree(finished, tmp_path / "run")
    with running(run_dir):
        file = run_dir / "status.json"
        status.write(file, dataclasses.replace(status.read(file), written=time.time() - 60))
        assert Live(run_dir).now()["silent"] == "no sign of the driver for 1m00s"


def test_a_wrong_run_and_a_taken_port_are_one_line(finished, tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    why = f"{tmp_path} holds no run (no config.yaml): give a run's folder, as runs/quickstart"
    assert capsys.readouterr().err == f"error: {why}\n"
    with Server(Live(finished)) as server:
        assert main([str(finished), "--port", str(server.server_port)]) == 1
    assert "cannot be had (Address already in use): choose another --port" in capsys.readouterr().err
    with pytest.raises(WatchError, match="holds no run"):
        Live(tmp_path / "nothing")
