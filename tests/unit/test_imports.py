"""The rules of the project about who imports whom; they keep `--help` instant and the rooms apart."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "vllm", "ray", "deepspeed", "transformers"}
MAY_IMPORT = {
    "reward": {"envs"},
    "envs": set(),
    "actors": {"envs", "reward"},
    "learner": {"actors", "envs", "reward"},
    "cluster": {"learner", "actors", "envs", "reward"},
}


def sources(room: str) -> list[Path]:
    return [path for path in sorted((ROOT / room).rglob("*.py")) if "tasks" not in path.parts]


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            yield node.module or ""


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_one_way(room):
    for path in sources(room):
        allowed = MAY_IMPORT[room] | {room}
        if path == ROOT / "envs" / "__main__.py":
            allowed = allowed | {"reward"}
        used = {name.partition(".")[0] for name in imported(path)} & set(MAY_IMPORT)
        assert used <= allowed, f"{path} imports {used - allowed}"


@pytest.mark.parametrize("room", ["reward", "envs"])
def test_rewards_and_environments_need_no_framework(room):
    for path in sources(room):
        used = {name.partition(".")[0] for name in imported(path)} & HEAVY
        assert not used, f"{path} imports {used}"


def test_records_need_only_the_standard_library_and_numpy():
    used = {name.partition(".")[0] for name in imported(ROOT / "envs" / "records.py")}
    assert used <= set(sys.stdlib_module_names) | {"numpy"}


@pytest.mark.parametrize("room", ["learner", "actors"])
def test_no_module_beside_an_entry_point_hides_another(room):
    """`python learner/main.py` puts learner/ first on the path, so its files hide top-level modules of that name."""
    others = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    hiding = {path.stem for path in (ROOT / room).glob("*.py")} & (others - {"__init__"})
    assert not hiding


def test_help_is_instant_and_loads_nothing_heavy():
    code = (
        "import json, runpy, sys, atexit\n"
        "atexit.register(lambda: print(json.dumps(sorted(m for m in sys.modules if '.' not in m)), file=sys.stderr))\n"
        "sys.argv = ['main.py', '--help']\n"
        "runpy.run_path('learner/main.py', run_name='__main__')\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "rl.actions" in done.stdout
    assert not HEAVY & set(json.loads(done.stderr))
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_a_refused_configuration_is_one_line_and_exit_code_2():
    command = [sys.executable, "learner/main.py", "rl.setps=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown key rl.setps: did you mean rl.steps?\n"
