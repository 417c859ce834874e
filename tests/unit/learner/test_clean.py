"""What a run keeps is said before any of it goes, and what can be looked at or loaded stays."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from learner import clean
from learner.run.status import LOCK

STAYS = (
    "config.yaml", "metrics.jsonl", "report.html", "experiments/a", "logs/1/log.txt", "transitions/1.parquet",
    "checkpoints/step_1/hf/model.safetensors", "checkpoints/step_2/hf/model.safetensors",
)  # fmt: skip
GOES = (
    "checkpoints/step_1/state/about.json", "checkpoints/step_2/state/rank0", "checkpoints/finetuning/x",
    "checkpoints/.partial-step_3/x", "reference/x", "snapshots/ab/x", "attempts/sft/wine",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    for name in (*STAYS, *GOES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 2**18)
    (folder / "checkpoints/best").symlink_to("step_2")
    (folder / LOCK).touch()
    return folder


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} - {LOCK}


def test_nothing_goes_unless_it_is_said_to(run, capsys):
    assert clean.main([str(run)]) == 0
    shown = capsys.readouterr().out
    assert files(run) == {*STAYS, *GOES} and "Nothing was deleted" in shown
    rows = [line.split() for line in shown.splitlines() if "checkpoints/*/" in line or "figures" in line]
    assert ["may", "go", "0.5", "checkpoints/*/state"] in [row[:4] for row in rows]
    assert ["0.5", "checkpoints/*/hf"] in [row[:2] for row in rows], "once, though best leads there too"
    assert ["0.8", "figures,"] in [row[:2] for row in rows]


def test_what_only_a_resumed_run_needs_goes(run):
    (run / "checkpoints/.partial-best").symlink_to("step_2")  # of a driver that was killed
    assert clean.main([str(run), "--yes"]) == 0
    assert files(run) == set(STAYS) and (run / "checkpoints/best/hf").is_dir()


def test_a_run_that_is_in_use_and_a_folder_that_is_none_stay_as_they_are(run, tmp_path, capsys):
    assert clean.main([str(tmp_path), "--yes"]) == 1 and "holds no run" in capsys.readouterr().err
    with (run / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert clean.main([str(run), "--yes"]) == 1 and "in use by another process" in capsys.readouterr().err
    assert files(run) == {*STAYS, *GOES}
