"""What cluster/setup.sh says on machines that are not as it hopes; commands of such machines stand in for ours."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIKE_PYTHON = r"""#!/bin/bash
case "$*" in
    *version_info*) echo "${VERSION:-3.11}" ;;
    *base_prefix*) echo "${PREFIX:-/opt}" ;;
    *ensurepip*) [ -z "${NO_HEADERS:-}" ] ;;
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"pip "*"install"*)
        echo "${*: -1}" >>installed
        for refused in ${REFUSED:-}; do
            if [[ "$*" == *"$refused"* ]] && ! [[ -n "${INDEX_HAS:-}" && "$*" == *"$INDEX_HAS"* ]]; then
                echo "$PIP_SAYS" && exit 1
            fi
        done ;;
esac
"""
NO_SUCH = "ERROR: No matching distribution found for torch"
NO_NETWORK = (
    "WARNING: Retrying after connection broken by 'NewConnectionError(...)'\nERROR: No matching distribution found"
)
ORDINARY = (
    "bash", "dirname", "sort", "head", "tail", "grep", "xargs", "awk", "cut", "sha256sum", "mktemp", "rm", "mkdir",
    "cp", "cat", "touch", "df", "uname", "getconf", "pwd", "echo", "env",
)  # fmt: skip
"""Commands of this machine that the script may use."""
INDEX = "download.pytorch.org"


@pytest.fixture
def machine(tmp_path):
    """Run the set-up in a folder of its own: (exit code, what it said, what pip was asked to install)."""
    project, commands = tmp_path / "project", tmp_path / "bin"
    (project / "cluster").mkdir(parents=True)
    commands.mkdir()
    for name in ("cluster/setup.sh", "requirements-cpu.txt", "requirements-gpu.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, project / name)

    def command(name: str, text: str) -> None:
        (commands / name).write_text(text if text.startswith("#!") else f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)

    def run(arguments: tuple[str, ...] = (), fakes: dict[str, str] | None = None, **environment: str):
        present = {
            "python3.11": LIKE_PYTHON, "bwrap": "", "g++": "", "nvidia-smi": "exit 1", "docker": "exit 1",
            "id": "echo 1000", "ldconfig": "echo libnuma.so.1", "apt-get": "echo apt-get $* >>installed",
        }  # fmt: skip
        for name, text in {**present, **(fakes or {})}.items():
            command(name, text) if text != "absent" else (commands / name).unlink(missing_ok=True)
        for name in ORDINARY:
            if not (commands / name).exists():
                (commands / name).symlink_to(shutil.which(name))
        done = subprocess.run(
            [str(commands / "bash"), "cluster/setup.sh", *arguments], cwd=project, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={"PATH": str(commands), "TMPDIR": str(tmp_path), **environment},
        )  # fmt: skip
        log = project / "installed"
        return done.returncode, done.stdout, log.read_text().split() if log.exists() else []

    return run


@pytest.mark.parametrize(
    ("fakes", "environment", "says"),
    [
        ({"uname": "[ $1 = -s ] && echo Darwin || echo arm64"}, {}, "this is Darwin: use a Linux machine, WSL 2"),
        ({"uname": "[ $1 = -s ] && echo Linux || echo riscv64"}, {}, "no packages for riscv64"),
        ({"uname": "[ $1 = -s ] && echo Linux || echo aarch64"}, {"DEVICE": "gpu"}, "make DEVICE=cpu"),
        ({"getconf": "echo glibc 2.28"}, {}, "need glibc 2.31 or later, and this system has glibc 2.28"),
        ({"getconf": "exit 1"}, {}, "this system has another C library"),
        ({}, {"DEVICE": "tpu"}, "DEVICE=tpu: choose auto, cpu or gpu"),
        ({}, {"PYTHON": "python3.11", "VERSION": "3.9"}, "PYTHON=python3.11 is Python 3.9, and 3.11, 3.12 and 3.13"),
        ({}, {"PYTHON": "/nowhere/python"}, "PYTHON=/nowhere/python does not run"),
        ({}, {"NO_HEADERS": "1"}, "python3.11 lacks the module ensurepip or its headers"),
        ({}, {"NO_HEADERS": "1", "PREFIX": "/usr"}, "sudo apt-get install -y python3.11-venv python3.11-dev "),
        ({"bwrap": "absent"}, {}, "run  sudo apt-get install -y bubblewrap  and then make again"),
        ({"g++": "absent", "apt-get": "absent"}, {}, "missing, by Debian's names: g++; install what this system calls"),
        ({"df": "printf 'a\\nb 1 1 2097152 1 /\\n'"}, {}, "the packages take 5 GB, and"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_downloaded(machine, fakes, environment, says):
    code, said, installed = machine(fakes=fakes, **environment)
    assert (code, installed) == (1, [])
    assert says in said and said.count("error: ") == 1


def test_python_is_what_PYTHON_says_and_the_environment_follows_it(machine):
    assert machine()[0] == 0
    assert machine()[2].count("requirements-cpu.txt") == 1, "nothing changed, and it was set up again"
    code, _, installed = machine(fakes={"python3.13": LIKE_PYTHON}, PYTHON="python3.13", VERSION="3.13")
    assert code == 0 and installed.count("requirements-cpu.txt") == 2


def test_a_container_engine_is_sandbox_enough(machine):
    assert machine(fakes={"bwrap": "absent", "docker": ""})[0] == 0


def test_the_cpu_build_comes_from_the_indexes_of_pip_or_from_that_of_pytorch(machine):
    code, said, installed = machine()
    assert code == 0 and installed.count("torch==2.13.0+cpu") == 1 and "WARNING" not in said


def test_the_index_of_pytorch_is_asked_where_those_of_pip_have_no_cpu_build(machine):
    code, said, installed = machine(REFUSED="+cpu", INDEX_HAS=INDEX, PIP_SAYS=NO_SUCH)
    assert code == 0 and installed.count("torch==2.13.0+cpu") == 2 and "WARNING" not in said


@pytest.mark.parametrize(
    ("pip_says", "why"), [(NO_SUCH, "has no torch==2.13.0+cpu for this Python"), (NO_NETWORK, "cannot be reached")]
)
def test_the_larger_build_is_taken_aloud(machine, pip_says, why):
    code, said, installed = machine(REFUSED="+cpu", PIP_SAYS=pip_says)
    assert code == 0 and "torch==2.13.0" in installed
    assert f"WARNING: https://{INDEX}/whl/cpu {why}" in said and "several GB more" in said


@pytest.mark.parametrize(
    ("refused", "pip_says", "says"),
    [
        ("torch requirements", NO_NETWORK, "no package index was reached for torch==2.13.0: check the network, or"),
        ("requirements", NO_SUCH, "pip could not install the packages of requirements-cpu.txt: ERROR: No matching"),
        ("requirements", "ERROR: OSError: [Errno 28] No space left on device", "the disk is full"),
    ],
)
def test_no_network_is_told_from_no_such_version(machine, refused, pip_says, says):
    code, said, _ = machine(REFUSED=refused, PIP_SAYS=pip_says)
    assert code == 1 and says in said and said.count("error: ") == 1
    assert machine()[0] == 0, "what was interrupted goes on"


def test_root_installs_what_is_missing_and_the_others_are_told(machine):
    code, said, installed = machine(fakes={"id": "echo 0", "bwrap": "absent", "g++": "absent"})
    assert code == 0 and " ".join(installed).startswith("apt-get install -qq -y --no-install-recommends bubblewrap g++")
    assert "• installing bubblewrap g++" in said
