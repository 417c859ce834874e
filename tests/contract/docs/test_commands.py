"""Every command that the documents show: run as it stands where that takes seconds, else read by what would run it.

What is read is taken by the real parser, to the point where it would start something. A command of no kind fails: a
reader would try it, so somebody has to say how it is tried here.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import cli, scale
from learner import evaluate, watch
from learner.config.load import load
from tests import documents
from tests.documents import ROOT, Block, Command
from tests.unit import fake_run

RUN = (
    r"\S+ .*--help",
    r"\.venv/bin/mlagent tasks (list|check|best|new|step|export)\b.*",
    r"\.venv/bin/python learner/report\.py .*",
    r"\.venv/bin/mlagent rescore .*",
    r"cat > .*",
)
READ = (
    r"(\S+/)?python .*",
    r"\.venv/bin/mlagent (train|rehearse|doctor|evaluate|solve|scale|watch) .*",
    r"make .*",
    r"ray .*",
)
LISTED = {
    r"pip install .*": "downloads gigabytes",
    r"cd .*": "moves the shell, for what follows",
    r"docker (tag|push) .*": "needs an image of many GB and a registry",
    r"kustomize .*": "the manifests are built by tests/unit/cluster/test_kuberay.py",
    r"sbatch .*": "needs a Slurm cluster: tests/unit/cluster/test_slurm.py runs the script",
    r"kubectl .*|export \w+=\$\(kubectl .*": "needs a Kubernetes cluster",
}
"""What is neither run nor read, and why; the files that it names are there all the same."""
ON_THE_CLUSTER = {"config=/etc/mlagent/run.yaml": f"config={ROOT}/cluster/kuberay/overlays/multi-node/run.yaml"}
"""What pods have at a place of their own; the standing cluster is of the machines of `multi-node`."""
OF_A_MAKE_AROUND = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS")
"""What `make test ARGS=…` hands to what it runs; a make that a user types has none of it: no ARGS, no directories."""
SECONDS = 240

BLOCKS = [block for page in documents.documents() for block in documents.blocks(page) if block.language == "bash"]
COMMANDS = [command for block in BLOCKS for command in block.commands()]


def of_kind(command: Command, patterns) -> bool:
    text = re.sub(rf"^{documents.ASSIGNMENT.pattern}", "", command.text)
    return any(re.fullmatch(pattern, text, re.DOTALL) for pattern in patterns)


READ_ONLY = [command for command in COMMANDS if of_kind(command, READ) and not of_kind(command, RUN)]
RUNNING = [block for block in BLOCKS if any(of_kind(command, RUN) for command in block.commands())]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone's folder in which commands may write, with two runs and an action."""
    folder = tmp_path_factory.mktemp("clone")
    for path in {path.parts[0] for path in documents.tracked()}:
        (folder / path).symlink_to(ROOT / path)
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("quickstart", "other", "prove"):
        fake_run.make(folder / "runs" / name, steps=2, actions=4)
    (folder / "action.txt").write_text("Action: Execute\n")
    (folder / "train.py").write_text("print('accuracy = 0.5')\n")
    return folder


@pytest.fixture(scope="module")
def ran() -> set[str]:
    return set()


@pytest.mark.timeout(2 * SECONDS)  # of which a first image of the Docker sandbox takes most
@pytest.mark.parametrize("block", RUNNING, ids=lambda block: f"{block.document}:{block.line}")
def test_what_takes_seconds_runs_as_it_stands(block: Block, place: Path, ran: set[str]) -> None:
    path = f"{place / '.venv/bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    for command in block.commands():
        if not of_kind(command, RUN) or command.text in ran:
            continue
        done = subprocess.run(
            ["bash", "-euc", command.text], cwd=place, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
        if "no sandbox works here" in done.stderr:
            pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {done.stderr[-300:]}")
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert done.stdout or command.text.startswith("cat > "), f"{command} says nothing"
        ran.add(command.text)


@pytest.mark.parametrize("command", READ_ONLY, ids=str)
def test_what_takes_longer_is_taken_by_what_would_run_it(command: Command, place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    read(command.words(), monkeypatch)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_of_a_kind_and_its_files_are_there(command: Command) -> None:
    assert of_kind(command, (*RUN, *READ, *LISTED)), "run it, read it, or list it with the reason"
    tops = {path.parts[0] for path in documents.tracked()}
    for word in command.text.split():
        if word.partition("/")[0] in tops or word.startswith("requirements"):
            assert (ROOT / word).exists(), f"there is no {word}"


def test_each_kind_is_needed() -> None:
    kinds = (*RUN, *READ, *LISTED)
    assert [kind for kind in kinds if not any(of_kind(command, [kind]) for command in COMMANDS)] == []


def read(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise where one of the words would be refused."""
    name, *rest = [ON_THE_CLUSTER.get(word, word) for word in words]
    match Path(name).name:
        case "make":
            read_make(rest, monkeypatch)
        case "ray":
            read_ray(rest, monkeypatch)
        case "mlagent":
            read_module(cli.COMMANDS[rest[0]][0], rest[1:], monkeypatch)
        case "with_docker.sh":
            read(rest, monkeypatch)
        case "python" if rest[0] == "-m":
            read_module(rest[1], rest[2:], monkeypatch)
        case "python":
            read_module(rest[0].removesuffix(".py").replace("/", "."), rest[1:], monkeypatch)
        case _:
            assert Path(name).exists(), f"there is no {name}"


def read_make(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What make would do, and whether it passes ARGS on."""
    outside = {key: value for key, value in os.environ.items() if key not in OF_A_MAKE_AROUND}
    shown = subprocess.run(["make", "-n", *words], cwd=ROOT, env=outside, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for given in (word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")):
        assert given in shown.stdout, f"make {words[0]} drops ARGS"
    for line in shown.stdout.splitlines():
        read(shlex.split(line), monkeypatch)


def read_ray(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ray's own parsers; a job's command is read as well."""
    from ray.scripts.scripts import cli as command

    while isinstance(getattr(command, "commands", None), dict):
        name, *words = words
        command = command.commands[name]
    given = command.make_context(command.name, words).params
    if job := given.get("entrypoint"):
        read(list(job), monkeypatch)


def read_module(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    match module:
        case "learner.main" | "learner.rehearse" | "learner.experts" | "cluster.restartable" | "cluster.doctor":
            load([argument for argument in arguments if argument != "--json"])
        case "cluster.quickstart":
            load(["config=quickstart", *arguments])
        case "learner.evaluate":
            evaluate.read(arguments)
        case "cluster.scale":
            monkeypatch.setattr(scale.ray, "init", lambda **_: None)
            monkeypatch.setattr(scale, "scale", lambda job, count: count)
            assert scale.main(arguments) == 0
        case "learner.watch":
            from learner.reporting.serving import Server

            monkeypatch.setattr(Server, "serve_forever", lambda _: None)
            assert watch.main(arguments) == 0
        case "actors.solve":
            from actors import solve

            async def nothing(*_):
                return None

            monkeypatch.setattr(solve, "_solve", nothing)
            assert solve.main(arguments) == 0
        case "pytest":
            paths = [argument for argument in arguments if "/" in argument]
            assert all((ROOT / path).exists() for path in paths), paths
        case "tests.mutants":
            from tests.mutants.targets import TARGETS

            assert all(any(part in target.path for target in TARGETS) for part in arguments)
        case "tests.prove" | "tests.bench":
            assert not arguments
        case _:
            raise AssertionError(f"nobody here reads the arguments of {module}")
