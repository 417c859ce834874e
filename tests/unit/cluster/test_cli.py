"""`mlagent`: every command opens its door, with its arguments and its exit code, and loads nothing else."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cluster import cli, doctor, quickstart, restartable
from learner import evaluate, experts, main

ROOT = Path(__file__).parents[3]
SAID = {
    "train": "rl.actions",
    "rehearse": "a tiny random model",
    "evaluate": "URL#MODEL",
    "solve": "--approve",
    "doctor": "--json",
    "report": "RUN [RUN ...]",
    "watch": "a page that follows a run",
    "rescore": "without running anything",
    "clean": "cannot be resumed any more",
    "tasks": "write a task to start from",
    "scale": "as many as are needed",
}


def test_the_installed_command_is_this_one():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {name: pkgutil.resolve_name(path) for name, path in scripts.items()} == {"mlagent": cli.main}
    assert set(SAID) == set(cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_shows_its_own_help(name, capsys):
    code = 0
    try:
        code = cli.main([name, "--help"])
    except SystemExit as end:
        code = end.code
    assert not code
    assert SAID[name].lower() in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "rl.setps=3"], 2, "error: unknown key rl.setps: did you mean rl.steps?"),
        (["evaluate", "rl.setps=3"], 2, "error: unknown key rl.setps: did you mean rl.steps?"),
        (["doctor", "rl.setps=3"], 2, "error: unknown key rl.setps: did you mean rl.steps?"),
        (["tasks", "check", "whine"], 1, "error: there is no task 'whine': did you mean wine?"),
        (["report", "nowhere"], 1, "nowhere"),
        (["slove"], 2, "error: mlagent has no command slove: did you mean solve?"),
    ],
)
def test_arguments_go_in_and_the_exit_code_comes_out(arguments, code, message, capsys):
    assert cli.main(arguments) == code
    assert message in capsys.readouterr().err


def test_a_cluster_that_is_none_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert cli.main(["scale", "mine", "--auto"]) == 1
    assert capsys.readouterr().err.startswith("error: RAY_ADDRESS=http://head:8265: no cluster is joined there")


def test_an_interrupt_while_a_command_is_imported_is_no_traceback(monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.importlib, "import_module", interrupted)
    assert cli.main(["solve"]) == 130


@pytest.mark.parametrize(
    ("command", "about"),
    [
        (doctor.main, "usage: python -m cluster.doctor"),
        (experts.main, "usage: python learner/experts.py"),
        (evaluate.main, "usage: python learner/evaluate.py"),
        (restartable.start, "usage: python -m cluster.restartable"),
        (quickstart.main, "usage: make train"),
    ],
)
def test_each_command_says_what_it_is_and_starts_nothing_of_itself(command, about, capsys):
    assert command(["config=smoke", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(about) and "learner/main.py --help" in out and len(out.splitlines()) < 25
    if command is not quickstart.main:  # `make train` starts, as the README says
        assert command([]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: say what is to be done") and about in said.err and not said.out


def test_nothing_is_trained_without_being_named(capsys):
    assert main.main([]) == 2
    assert capsys.readouterr().err.startswith("error: say what is to be trained, such as config=quickstart")


def test_the_list_of_commands_and_the_help_of_training_load_nothing_heavy():
    code = (
        "import json, sys\nfrom cluster import cli\n"
        "cli.main(['--help'])\n"
        "try:\n    cli.main(['train', '--help'])\n"
        "finally:\n    print(json.dumps(sorted(m for m in sys.modules if '.' not in m)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in cli.COMMANDS)
    assert not {"torch", "vllm", "ray", "deepspeed", "transformers", "pandas"} & set(json.loads(done.stderr))
