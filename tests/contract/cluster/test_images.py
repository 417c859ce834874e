"""The Ray node image, built as far as it can be without a registry, under the restrictions of a KubeRay pod.

Its base stage is built upon the sandbox image, which is a minimal Debian with Python; this environment stands in for
the Python packages, which would take minutes to install.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from envs.benchmarks.loader import load
from envs.sandbox import image
from envs.sandbox.packages import OwnPackages
from tests.main_job import ROOT, engine_answers

TAG = "mlagent-ray-base:test"
PROJECT, PACKAGES = "/project", "/installed"
POD = ["--user=1000:1000", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp:exec,mode=1777"]
"""What cluster/kuberay/components/pods asks of Kubernetes."""
EXPERIMENTS = ["--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"]
"""And the groups that run experiments."""


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    import docker

    if not engine_answers():
        pytest.skip("NOT TESTED, no Docker Engine answers")
    below = image.ensure(docker.from_env(timeout=600), OwnPackages())
    command = ["docker", "build", "--file", "cluster/images/Dockerfile", "--target", "base", "--network", "host"]
    done = subprocess.run(
        [*command, "--build-arg", f"BASE={below}", "--tag", TAG, "."], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode and "Unable to locate package" in done.stdout + done.stderr:
        pytest.skip(f"NOT TESTED, the build reaches no Debian packages: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    yield TAG
    subprocess.run(["docker", "image", "rm", "--force", TAG], capture_output=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache with the task `wine`, for any user: the sandbox image lacks the data that it is prepared from."""
    prepared, cache = load("wine").env_dir.parent, tmp_path_factory.mktemp("cache")
    shutil.copytree(prepared, cache / "tasks" / prepared.name)
    for path in (cache, *cache.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    return cache


def inside(base: str, *options: str, command: str) -> subprocess.CompletedProcess:
    """Run a shell line in a container that sees this checkout and the installed packages, read-only."""
    packages = Path(pytest.__file__).parents[1]
    return subprocess.run(
        [
            "docker", "run", "--rm", "--network=none", *POD, *options, "--env=HOME=/tmp",
            f"--env=PYTHONPATH={PROJECT}:{PACKAGES}", f"--volume={ROOT}:{PROJECT}:ro",
            f"--volume={packages}:{PACKAGES}:ro", base, "sh", "-c", command,
        ],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.timeout(900)
def test_experiments_run_in_gvisor_in_a_pod_without_privileges(base, cache):
    theirs = inside(base, command="python3 --version").stdout.split()[1].rpartition(".")[0]
    if theirs != f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip(f"NOT TESTED, the packages installed here are for another Python than the container's {theirs}")
    mounted = [f"--volume={cache}:/cache", "--env=MLAGENT_CACHE=/cache"]
    done = inside(base, *EXPERIMENTS, *mounted, command="python3 -m envs check wine --sandbox gvisor")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["problems"] == [] and found["score"] > 0


def test_the_user_is_none_that_debian_made(base):
    done = inside(base, command="id -un && test -w /home/mlagent && bwrap --version && runsc --version")
    assert done.returncode == 0 and done.stdout.startswith("mlagent\n"), done.stdout + done.stderr
