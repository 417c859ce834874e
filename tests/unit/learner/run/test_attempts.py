"""Attempts of an evaluation that was interrupted: what is read is what would be made again."""

from __future__ import annotations

import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from learner.config.load import load
from learner.run.attempts import Attempts, forget_after
from tests.unit import fake_run

MADE = [fake_run.transition(random.Random(k), f"evaluate/{k}", "wine", 1, 0.5) for k in range(4)]


def test_attempts_are_read_as_they_were_kept(tmp_path: Path) -> None:
    Attempts(load([]), tmp_path, "sft", 1).keep("org/wine@0.5", MADE)
    kept = Attempts(load(["checkpoint.every=9", "rl.steps=9"]), tmp_path, "sft", 1)
    read = kept.of("org/wine@0.5")
    assert [vars(one) | {"prompt_ids": 0, "response_ids": 0, "behaviour_logprobs": 0} for one in read] == [
        vars(one) | {"prompt_ids": 0, "response_ids": 0, "behaviour_logprobs": 0} for one in MADE
    ]
    for one, made in zip(read, MADE, strict=True):
        np.testing.assert_array_equal(one.response_ids, made.response_ids)
    assert kept.of("wine") is None


@pytest.mark.parametrize(
    ("stage", "version", "settings"),
    [
        ("rl", 1, []), ("sft", 2, []), ("sft", 1, ["evaluation.seed=7"]), ("sft", 1, ["evaluation.attempts=7"]),
        ("sft", 1, ["reward.steepness=7"]), ("sft", 1, ["rl.temperature=0.7"]), ("sft", 1, ["model.response=70"]),
        ("sft", 1, ["editor.endpoint=http://localhost:1/v1", "editor.model=writer"]),
    ],
)  # fmt: skip
def test_those_of_other_weights_or_settings_are_not_read(
    tmp_path: Path, stage: str, version: int, settings: list[str]
) -> None:
    Attempts(load([]), tmp_path, "sft", 1).keep("wine", MADE)
    assert Attempts(load(settings), tmp_path, stage, version).of("wine") is None


@pytest.mark.parametrize("content", [b"", pickle.dumps(MADE)[:-30], b"text", pickle.dumps([print])])
def test_what_is_damaged_or_forged_is_made_again(tmp_path: Path, content: bytes) -> None:
    kept = Attempts(load([]), tmp_path, "sft", 1)
    kept.keep("wine", MADE)
    (file,) = (tmp_path / "attempts").glob("*/wine")
    file.write_bytes(content)
    assert kept.of("wine") is None


def test_neither_a_copy_nor_what_cannot_be_deleted_keeps_a_run_from_going_on(tmp_path: Path, monkeypatch) -> None:
    def busy(path: Path, *_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy", str(path))

    for stage, version in (("sft", 1), ("held-out", 3), ("rl", 9)):
        Attempts(load([]), tmp_path, stage, version).keep("wine", MADE)
    first, _, last = sorted((tmp_path / "attempts").iterdir(), key=lambda path: path.name.split("-")[-2])
    copy = last.with_name("rl-9-ab12cd34-old")
    shutil.copytree(last, copy)
    with monkeypatch.context() as patched:
        patched.setattr("os.rmdir", busy)
        forget_after(tmp_path, 2)
    forget_after(tmp_path, 2)
    assert sorted((tmp_path / "attempts").iterdir()) == [copy, first]
