"""Images of tasks, by an engine that may be silent: Docker's client, and a stand-in at the other end of its socket."""

from __future__ import annotations

import base64
import io
import itertools
import json
import socketserver
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import docker
import pytest
from filelock import FileLock

from envs import docker_engine, task_image
from envs.records import Build
from envs.sandbox import SandboxFailure, image

LATE = r"not built in 0 s .*build_timeout_sec"
ANSWERS = {"/c/json": {"Id": "c"}, "/c/wait": {"StatusCode": 0}}


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Builds whatever it is asked to, unless what is asked for ends with `silent`: that it takes up, and no more."""

    daemon_threads = True

    def __init__(self, place: Path):
        super().__init__(str(place), Conversation)
        self.config: dict = {"WorkingDir": "/shop"}
        self.tagged, self.silent, self.archive = False, "nothing", b""
        self.asked: list[str] = []
        self.steps: Iterator[str] = iter(())
        """What a build says before it is done."""
        self.left = threading.Event()
        """Who listened to a build did not wait for its end."""
        self.created: list[dict] = []
        self.over = threading.Event()


class Conversation(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        engine, (path, _, options) = self.server, self.path.partition("?")
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        engine.asked.append(f"{self.command} {self.path}")
        if path.endswith(engine.silent):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            engine.over.wait(20)
            self.close_connection = True
        elif path.endswith("/build"):
            self.build()
        elif path.endswith("/tag"):
            engine.tagged = "tag=" in options
            self.reply(b"", 201)
        elif path.endswith("/archive"):
            self.reply(engine.archive)
        elif path.endswith("/create"):
            engine.created.append(json.loads(sent))
            self.reply(b'{"Id": "c"}', 201)
        elif "/images/" in path:
            found = engine.tagged or task_image.REPOSITORY not in path
            about = {"Id": "sha256:0123", "Config": engine.config} if found else {"message": "no such image"}
            self.reply(json.dumps(about).encode(), 200 if found else 404)
        else:
            answer = next((answer for end, answer in ANSWERS.items() if path.endswith(end)), None)
            self.reply(json.dumps(answer).encode() if answer else b"", 200 if answer else 204)

    do_POST = do_DELETE = do_GET

    def build(self) -> None:
        steps = itertools.chain(self.server.steps, ["Successfully built 0123\n", ""])
        first = next(steps)  # with which an engine's answer begins
        try:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for said in itertools.chain([first], steps):
                line = json.dumps({"stream": said}).encode() if said else b""
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        except ConnectionError:
            self.server.left.set()

    def reply(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Docker-Container-Path-Stat", base64.b64encode(b"{}").decode())
        self.end_headers()
        self.wfile.write(content)

    def address_string(self) -> str:
        return "client"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(task_image.tempfile, "tempdir", str(tmp_path))  # a lock of one's own
    monkeypatch.setattr(task_image, "_refused", {})
    with Engine(tmp_path / "socket") as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield server
        server.over.set()
        server.shutdown()


@pytest.fixture
def client(engine: Engine) -> Iterator[docker.DockerClient]:
    found = docker.DockerClient(f"unix://{engine.server_address}", version="1.41", timeout=10)
    yield found
    found.close()


@pytest.fixture
def build(tmp_path: Path) -> Build:
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment/Dockerfile").write_text("FROM debian\n")
    return Build(tmp_path / "environment")


@pytest.mark.parametrize(
    ("silent", "seconds", "says"), [("/build", 0.2, LATE), ("/c/wait", 600.0, "does not run python3")]
)
def test_an_engine_that_falls_silent_is_not_waited_for_nor_asked_for_the_same_at_once(
    engine, client, build, monkeypatch, silent, seconds, says
):
    engine.silent = silent
    with monkeypatch.context() as soon:
        soon.setattr(docker_engine, "PROBE_SECONDS", 0.2)
        for _ in range(2):
            with pytest.raises(docker_engine.Unusable, match=says):
                task_image.built(client, replace(build, seconds=seconds))
    builds = [asked for asked in engine.asked if "/build?" in asked]
    assert len(builds) == 1 and "forcerm=True" in builds[0]
    assert sum("/create" in asked for asked in engine.asked) == sum("DELETE" in asked for asked in engine.asked)
    engine.silent = "nothing"
    monkeypatch.setattr(task_image, "_refused", {tag: (why, 0.0) for tag, (why, _) in task_image._refused.items()})
    assert task_image.built(client, build) == "sha256:0123" and engine.tagged


@pytest.mark.parametrize("step", [0.05, 0.5], ids=["in many", "in one"])
def test_a_build_whose_steps_add_up_to_more_than_its_time_is_given_up(engine, client, build, step):
    engine.steps = (time.sleep(step) or f"Step {number}\n" for number in range(200))
    with pytest.raises(docker_engine.Unusable, match=LATE):
        task_image.built(client, replace(build, seconds=0.3))
    assert engine.left.wait(20) and not engine.tagged


def test_a_step_may_be_silent_for_as_long_as_the_whole_may_take(engine, client, build, monkeypatch):
    given = []
    monkeypatch.setattr(client.api, "build", lambda timeout, **_: given.append(timeout) or (_ for _ in ()))
    with pytest.raises(docker_engine.Unusable):
        task_image.built(client, replace(build, seconds=3600.0))
    assert given == [3600.0]


def test_an_image_is_tried_with_what_sandboxes_cover(engine, client, build):
    def covered() -> list[set[str]]:
        found = [set(one["HostConfig"]["Tmpfs"]) for one in engine.created]
        engine.created.clear()
        return found

    task_image.built(client, build)
    assert covered() == [{"/tmp", "/shop"}] * 2, "the image's own working folder"
    engine.tagged = False
    task_image.built(client, replace(build, workdir="/srv"))
    assert covered() == [{"/tmp", "/srv"}] * 2, "where the task says that its files are"
    image.own(client, "mine")
    assert covered() == [{"/tmp", "/workspace", "/task"}]


def test_an_image_of_ones_own_that_is_silent_is_not_waited_for(engine, client, monkeypatch):
    engine.silent = "/c/wait"
    monkeypatch.setattr(docker_engine, "PROBE_SECONDS", 0.2)
    with pytest.raises(SandboxFailure, match=r"sandbox\.image=mine does not run python3"):
        image.own(client, "mine")
    assert any("DELETE" in asked for asked in engine.asked)


def test_what_is_there_waits_for_no_build_of_others_and_they_are_not_waited_for_for_ever(
    engine, client, build, tmp_path, monkeypatch
):
    monkeypatch.setattr(task_image, "WAIT_SECONDS", 0.1)
    built = task_image.built(client, build)
    (lock,) = tmp_path.glob("*.lock")
    with FileLock(lock):
        assert task_image.built(client, build) == built
        engine.tagged = False
        with pytest.raises(docker_engine.ImageError, match="other images have been in the making") as refused:
            task_image.built(client, build)
    assert not isinstance(refused.value, docker_engine.Unusable)
    assert task_image.built(client, build) == built


def test_a_volume_which_experiments_would_share_is_refused(engine, client, build):
    engine.config["Volumes"] = {"/data": {}}
    with pytest.raises(docker_engine.Unusable, match=r"has a VOLUME \(/data\)"):
        task_image.built(client, build)
    with pytest.raises(SandboxFailure, match=r"sandbox.image=mine has a VOLUME \(/data\)"):
        image.own(client, "mine")
    assert not engine.tagged


def test_a_folder_that_this_machine_does_not_have_is_told(client, tmp_path):
    with pytest.raises(docker_engine.ImageError, match="not on this machine: MLAGENT_CACHE must"):
        task_image.built(client, Build(tmp_path / "elsewhere"))


def test_hard_links_are_what_they_lead_to(engine, client, tmp_path):
    def archived(*entries: tuple[str, bytes, str]) -> bytes:
        with tarfile.open(fileobj=(packed := io.BytesIO()), mode="w") as archive:
            for name, kind, content in entries:
                entry = tarfile.TarInfo(name)
                entry.type, regular = kind, kind == tarfile.REGTYPE
                entry.size, entry.linkname = (len(content), "") if regular else (0, content)
                archive.addfile(entry, io.BytesIO(content.encode()) if regular else None)
        return packed.getvalue()

    file, link = ("shop/a", tarfile.REGTYPE, "there"), ("shop/b", tarfile.SYMTYPE, "/nowhere")
    engine.archive = archived(file, link, ("shop/c", tarfile.LNKTYPE, "shop/b"), ("shop/d", tarfile.LNKTYPE, "shop/a"))
    task_image.copy(client, "0123", "/shop", tmp_path / "env")
    assert {path.name: path.read_text() for path in (tmp_path / "env").iterdir()} == {"a": "there", "d": "there"}
    engine.archive = archived(("shop/e", tarfile.LNKTYPE, "elsewhere/e"))
    with pytest.raises(docker_engine.ImageError, match="/shop cannot be read in its image.*elsewhere/e"):
        task_image.copy(client, "0123", "/shop", tmp_path / "other")
