"""Which model the agent is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.solving.models import as_in_its_run, find
from actors.solving.settings import SolveError, read_settings


def make_run(runs: Path, name: str, result: str, steps: int, age: float, best: int | None = None) -> None:
    for step in (2, 10):
        folder = runs / name / "checkpoints" / f"step_{step}" / "hf"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    if best:
        (runs / name / "checkpoints" / "best").symlink_to(f"step_{best}")
    (runs / name / "config.yaml").write_text(f"rl:\n  steps: {steps}\n")
    status = runs / name / "status.json"
    status.write_text(f'{{"result": "{result}"}}')
    os.utime(status, (1e9 - age, 1e9 - age))


@pytest.fixture
def runs(tmp_path) -> Path:
    make_run(tmp_path, "old", "done", 8, age=40)
    make_run(tmp_path, "new", "done", 8, age=30, best=2)
    make_run(tmp_path, "broken", "failed", 8, age=20)
    make_run(tmp_path, "smoke", "done", 3, age=10)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", "new/checkpoints/step_2/hf"),
        ("best", "new/checkpoints/step_2/hf"),
        ("last", "new/checkpoints/step_10/hf"),
        ("old", "old/checkpoints/step_10/hf"),
        ("smoke", "smoke/checkpoints/step_10/hf"),
        ("new/best", "new/checkpoints/step_2/hf"),
        ("new/last", "new/checkpoints/step_10/hf"),
        ("new/step_10", "new/checkpoints/step_10/hf"),
        ("RUNS/old", "old/checkpoints/step_10/hf"),
        ("RUNS/old/best", "old/checkpoints/step_10/hf"),
        ("RUNS/old/checkpoints/step_2", "old/checkpoints/step_2/hf"),
        ("RUNS/old/checkpoints/step_2/hf", "old/checkpoints/step_2/hf"),
    ],
)
def test_a_run_a_checkpoint_or_best_is_found_and_the_newest_done_run_without(runs, path, found):
    assert Path(find(path.replace("RUNS", str(runs)), runs)).resolve() == runs / found


@pytest.mark.parametrize("path", ["Qwen/Qwen2.5-7B", "builtin:smollm2-135m", "./nowhere"])
def test_other_paths_stay_as_they_are(runs, path):
    assert find(path, runs) == path


def test_a_checkpoint_is_told_what_its_run_told_it_but_for_what_is_given(runs):
    kept = "{history: 7, actions: thought, observation: 600}"
    thinking = "{thinking: [<t>, </t>], template_arguments: {deep: false}}"
    (runs / "new/config.yaml").write_text(f"prompt: {kept}\nmodel: {thinking}\n")
    settings = read_settings(["prompt.observation=50"])
    as_in_its_run(settings, find("new/best", runs))
    told, model = settings.prompt, settings.model
    assert (told.history, told.actions, told.observation, told.descriptor) == (7, "thought", 50, -1)
    assert (list(model.thinking), dict(model.template_arguments)) == (["<t>", "</t>"], {"deep": False})
    settings = read_settings([])
    as_in_its_run(settings, "Qwen/Qwen2.5-7B")
    assert settings == read_settings([])
    (runs / "old/config.yaml").write_text("prompt: [")
    with pytest.raises(SolveError, match="old/config.yaml cannot be read"):
        as_in_its_run(settings, find("old", runs))


def test_what_is_not_there_is_said(runs, tmp_path):
    with pytest.raises(SolveError, match=r"no checkpoint step_3: it has best, step_2, step_10"):
        find("new/step_3", runs)
    for name in ("old", "new"):
        (runs / name / "status.json").write_text('{"result": "interrupted"}')
    with pytest.raises(
        SolveError, match=r"broken \(failed\), new \(interrupted\), old .*smoke \(a rehearsal of 3 steps\)"
    ):
        find("", runs)


def test_a_run_whose_record_is_damaged_is_passed_over_and_a_copied_checkpoint_is_none(runs):
    (runs / "new/config.yaml").write_text("rl: [")
    (runs / "old/checkpoints/step_10").rename(runs / "old/checkpoints/step_10.bak")
    assert Path(find("", runs)) == runs / "old/checkpoints/step_2/hf"
    (runs / "old/config.yaml").write_text("rl: {steps: null}")
    with pytest.raises(SolveError, match=r"new \(its record cannot be read\), old \(its record cannot be read\)"):
        find("", runs)
