"""The rules of the project about who imports whom; they keep `--help` instant and the rooms apart."""

from __future__ import annotations

import ast
import graphlib
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
    "envs.cache": (),
    "envs.docker_engine": (),
    "envs.errors": (),
    "envs.machine": (),
    "envs.parts": (),
    "envs.records": (),
    "envs.sockets": (),
    "envs.splits": (),
    "envs.task_image": ("envs.docker_engine", "envs.records"),
    "envs.sandbox": ("envs.cache", "envs.docker_engine", "envs.records", "envs.task_image"),
    "envs.benchmarks": (
        "envs.cache", "envs.docker_engine", "envs.parts", "envs.records", "envs.sockets", "envs.splits",
        "envs.task_image",
    ),
    "reward": ("envs.records", "envs.sockets"),
    "envs": ("envs.benchmarks", "envs.machine", "envs.parts", "envs.records", "envs.sandbox"),
    "envs.__main__": (
        "actors.policy", "envs", "envs.benchmarks", "envs.parts", "envs.records", "envs.sandbox", "learner.config",
        "reward",
    ),
    "envs.exported": ("envs", "envs.parts", "envs.records", "reward"),
    "actors.runtime": ("envs", "envs.records", "envs.sandbox"),
    "actors.policy": ("actors.runtime", "envs", "envs.cache", "envs.records"),
    "actors.expert": ("actors.policy", "envs", "envs.records"),
    "actors": ("actors.expert", "actors.policy", "actors.runtime", "envs", "envs.records", "envs.sandbox", "reward"),
    "actors.solving": ("actors.policy", "envs", "envs.records", "envs.sandbox"),
    "actors.solve": (
        "actors.policy", "actors.solving", "envs", "envs.benchmarks", "envs.records", "envs.sandbox", "learner.config",
        "reward",
    ),
    "actors.verifiers_env": ("envs", "envs.benchmarks", "envs.records", "envs.sandbox", "reward"),
    "learner.algorithm": ("envs.records", "envs.sockets"),
    "learner.config": (
        "actors.policy", "envs.benchmarks", "envs.sockets", "learner.algorithm", "learner.figures", "reward",
    ),
    "learner.figures": ("actors.policy", "envs.records"),
    "learner.model": ("learner.algorithm",),
    "learner.stream": ("actors", "actors.runtime", "envs.records", "learner.algorithm"),
    "learner.ranks": (
        "actors", "actors.policy", "actors.runtime", "envs.cache", "envs.records", "learner.algorithm",
        "learner.config", "learner.model",
    ),
    "learner.run": (
        "actors", "actors.policy", "actors.runtime", "envs", "envs.benchmarks", "envs.machine", "envs.records",
        "envs.sandbox", "learner.algorithm", "learner.config", "learner.figures", "learner.stream",
    ),
    "learner.recipe": (
        "actors", "actors.expert", "actors.policy", "envs", "envs.records", "learner.algorithm", "learner.config",
        "learner.figures", "learner.ranks", "learner.run", "learner.stream",
    ),
    "learner.evaluation": (
        "actors", "actors.policy", "actors.runtime", "envs.records", "learner.config", "learner.figures",
        "learner.recipe", "learner.run",
    ),
    "learner.reporting": (
        "envs.records", "learner.algorithm", "learner.config", "learner.evaluation", "learner.figures", "learner.run",
        "reward",
    ),
    "learner": (
        "actors", "actors.policy", "envs", "envs.records", "envs.sandbox", "learner.algorithm",
        "learner.config", "learner.evaluation", "learner.ranks", "learner.recipe", "learner.reporting", "learner.run",
        "learner.stream", "reward",
    ),
    "cluster.checks": (
        "actors", "actors.policy", "envs", "envs.benchmarks", "envs.records", "envs.sandbox", "learner.config",
        "learner.ranks", "learner.run",
    ),
    "cluster": (
        "actors.policy", "cluster.checks", "envs.machine", "learner", "learner.config", "learner.run",
        "learner.stream",
    ),
}  # fmt: skip
"""The arrows between rooms. A room is a folder, without the folders in it; a module that is named here is a room of its
own: `envs.errors` is what every room may import, so that the rows leave it out; `envs.__main__`, `envs.exported` and
`actors.solve` are commands, `actors.verifiers_env` is what another framework calls, which may import more than the
modules beside them (`python -m envs step` tells what a step is worth)."""
TOP = {room.partition(".")[0] for room in MAY_IMPORT}
GENERATED = {"tasks", "template"}  # scripts of tasks


def sources(room: str) -> list[Path]:
    return [path for path in sorted((ROOT / room).rglob("*.py")) if not GENERATED & set(path.parts)]


def room_of(module: str) -> str | None:
    """The room that a module, or a name in one, belongs to; None outside this project."""
    parts = module.split(".")
    if parts[0] not in TOP:
        return None
    if ".".join(parts[:2]) in MAY_IMPORT:
        return ".".join(parts[:2])
    return parts[0]


def imported(path: Path) -> Iterator[str]:
    """Full names of what a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> dict[str, dict[str, Path]]:
    """By room, the other rooms that it imports, with a file that does."""
    found: dict[str, dict[str, Path]] = {room: {} for room in MAY_IMPORT}
    for top in sorted(TOP):
        for path in sources(top):
            room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for name in imported(path):
                if (other := room_of(name)) and other not in (room, "envs.errors"):
                    found[room][other] = path
    return found


def test_rooms_import_as_the_table_says_and_no_arrow_of_it_is_unused():
    found = arrows()
    for room, others in found.items():
        for other, path in others.items():
            assert other in MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {other}, which {room} may not"
    unused = {room: set(allowed) - set(found[room]) for room, allowed in MAY_IMPORT.items()}
    assert not any(unused.values()), f"the table allows what nobody imports: {unused}"


def test_the_table_has_no_circle():
    list(graphlib.TopologicalSorter(MAY_IMPORT).static_order())  # raises CycleError, which names it


def test_every_room_says_what_it_is_for():
    folders = {path.parent for top in TOP for path in sources(top)}
    for folder in folders:
        said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert said and len(said.splitlines()) >= 3, f"{folder.relative_to(ROOT)}/__init__.py does not say it"


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
    beside = {path.stem for path in (ROOT / room).iterdir() if path.suffix == ".py" or path.is_dir()}
    hiding = beside & (others - {"__init__"})
    assert not hiding


@pytest.mark.slow
def test_who_starts_and_calls_ranks_and_actors_loads_none_of_what_these_compute_with():
    code = "import json, sys, learner.training, learner.evaluate, learner.experts; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert HEAVY & set(json.loads(done.stdout)) == {"ray"}


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
