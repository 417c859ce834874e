"""`learner/main.py --dry-run` shows what a run would be, and starts none of it."""

from __future__ import annotations

from transformers import AutoTokenizer

from actors.policy.model import BUILTIN, resolve
from learner import main
from learner.run import beforehand, preparation


def test_a_dry_run_shows_configuration_sizes_places_and_a_prompt_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preparation, "connect", None)
    assert main.main(["--dry-run", "config=smoke", f"run.dir={tmp_path}/runs", "rl.steps=7", "actors.cpus=0.5"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "  steps: 7\n",
        "135 million parameters",
        "1 × actors: 0.5 CPUs",
        "weights in Ray's object store",
        "experiments can import numpy, pandas, scikit-learn, and what these need",
    ):
        assert part in shown
    said, _, text = shown.partition("that a prompt may have\n\n")
    counted = int(said.rpartition(": ")[2].partition(" tokens")[0])
    ids = AutoTokenizer.from_pretrained(resolve(BUILTIN)).encode(text.removesuffix("\n"), add_special_tokens=False)
    assert text.startswith("<|im_start|>system\n") and "train.py:" in text and abs(counted - len(ids)) <= 1
    assert list(tmp_path.iterdir()) == []


def test_packages_are_not_installed_to_show_what_would_be(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(beforehand.sandbox, "require", lambda name: None)
    monkeypatch.setattr(beforehand.sandbox, "install", None)
    (tmp_path / "mine.txt").write_text("numpy\n")
    assert main.main(["--dry-run", "config=smoke", f"sandbox.requirements={tmp_path}/mine.txt"]) == 0
    assert f"experiments can import what {tmp_path}/mine.txt lists: it is installed into " in capsys.readouterr().out
    assert main.main(["--dry-run", "config=smoke", f"sandbox.requirements={tmp_path}/none.txt"]) == 2
    assert "there is no list of packages" in capsys.readouterr().err


def test_what_would_be_refused_is_refused(capsys):
    assert main.main(["--dry-run", "config=smoke", "tasks.held_in=[nowhere]"]) == 2
    assert "there is no task 'nowhere'" in capsys.readouterr().err
