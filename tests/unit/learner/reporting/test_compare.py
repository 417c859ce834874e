"""Runs side by side: known by one label each, with what sets them apart."""

import shutil
import sys

import pytest

from learner.report import main
from learner.reporting import compare, report, report_data
from tests.unit.fake_run import make
from tests.unit.learner.reporting.test_report import Page


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = [
        make(folder / "first", steps=4),
        make(folder / "second", steps=2, seed=3, settings=["rl.learning_rate=1e-5", "tasks.held_in=[iris]"]),
    ]
    return made


def test_the_page_says_which_run_did_what(runs):
    shown = Page(report.write_comparison(runs).read_text())
    text = " ".join(shown.text.split())
    assert "2 runs compared" in text and "4 of 10 learner steps" in text and "2 of 10 learner steps" in text
    assert "rl.learning_rate2e-051e-05" in text.replace(" ", "")
    assert len(shown.of("svg")) == 9
    assert (runs[0].parent / "compare.html").exists()


def test_only_keys_that_differ_are_listed():
    configs = {
        "a": {"rl": {"steps": 3, "epochs": 1}, "run": {"name": "a"}, "tasks": {"held_in": ["wine", "iris"]}},
        "b": {
            "rl": {"steps": 4, "epochs": 1},
            "run": {"name": "b"},
            "tasks": {"held_in": ["wine"]},
            "report": {"x": 1},
        },
        "c": {"rl": {"steps": 4}, "run": {"name": "c"}, "tasks": {"held_in": ["wine"]}},
    }
    assert compare.differences(configs) == {
        "rl.steps": ["3", "4", "4"],
        "rl.epochs": ["1", "1", "–"],
        "tasks.held_in": ["wine, iris", "wine", "wine"],
    }


def test_runs_of_one_name_are_known_by_their_path(runs, tmp_path):
    again = shutil.copytree(runs[0], tmp_path / "first")
    loaded = [report_data.load(folder) for folder in (runs[0], again, runs[1])]
    assert list(compare.named(loaded)) == [str(runs[0]), str(again), "second"]


def test_a_run_without_evaluation_or_steps_is_compared_as_far_as_it_came(runs, tmp_path, capsys):
    shutil.copy(runs[0] / "config.yaml", tmp_path)
    file = tmp_path / "both.html"
    assert main([str(runs[0]), str(tmp_path), "--output", str(file)]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    assert "0 of 10 learner steps" in file.read_text() and sys.getsizeof(file.read_text()) > 10_000
