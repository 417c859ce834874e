"""The examples of docs/extend.md, as they stand there."""

import re
import sys
from pathlib import Path

import pytest

from learner.config.load import load

GUIDE = Path(__file__).parents[4] / "docs" / "extend.md"
EXAMPLES = re.findall(r"```python\n(# (\S+), for (\S+=\S+).*?)```", GUIDE.read_text(), re.DOTALL)


def test_there_is_an_example_of_each_socket():
    assert [setting.partition("=")[0] for _, _, setting in EXAMPLES] == [
        "reward.version",
        "rl.algorithm",
        "tasks.held_in",
    ]


@pytest.mark.parametrize(("text", "file", "setting"), EXAMPLES, ids=[file for _, file, _ in EXAMPLES])
def test_an_example_of_the_guide_is_accepted(text, file, setting, tmp_path, monkeypatch):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)  # where the command is run, which is enough
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load([setting])
