"""The built-in expert knows kinds of scripts, not tasks: scripts that nobody had in mind get ideas, PyTorch's too."""

from __future__ import annotations

import ast
import collections
import contextlib
import difflib
import io
import random
from dataclasses import replace
from functools import cache

import pytest

from actors.expert import data_operators, operators, tree_operators
from actors.expert.script import Script
from envs.benchmarks.loader import builtin_tasks, load

COMMENTS = """\
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.svm import LinearSVC

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
counter = CountVectorizer(lowercase=True)
A = counter.fit_transform(train.comment)
clf = LinearSVC()
clf.fit(A, train.insult)
pd.DataFrame({"insult": clf.predict(counter.transform(test.comment))}).to_csv("submission.csv")
"""
LAYERS = """\
import torch
from torch import nn

torch.manual_seed(0)
BATCH = 32
x, y = torch.randn(64, 8), torch.randint(0, 2, (64,))
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))  # ü
loss_of = nn.CrossEntropyLoss()
opt = torch.optim.SGD(net.parameters(), lr=0.01)
for epoch in range(3):
    for i in range(0, 64, BATCH):
        loss = loss_of(net(x[i:i+BATCH]), y[i:i+BATCH])
        opt.zero_grad(); loss.backward(); opt.step()
"""
MODULE = """\
import torch.nn as layers
import torch.optim as optim
import torch

class Net(layers.Module):
    def __init__(self, hidden):
        super().__init__()
        self.body = layers.Sequential(
            layers.Linear(8, hidden),
            layers.Tanh(),
            layers.Linear(hidden, 3),
        )

    def forward(self, x):
        return self.body(x)

hidden = 24
model, criterion = Net(hidden=hidden), layers.CrossEntropyLoss()
optimizer = optim.Adam(
    model.parameters(),
    lr=3e-4,
)
for _ in range(2):
    optimizer.zero_grad()
    loss = criterion(model(torch.randn(16, 8)), torch.randint(0, 3, (16,)))
    loss.backward()
    optimizer.step()
"""
STRANGE = {
    "comments": COMMENTS, "layers": LAYERS, "module": MODULE,
    "propagated": MODULE.replace("optim.Adam(", "optim.RMSprop("),
}  # fmt: skip
"""Scripts of no task."""


def script_of(text: str) -> Script:
    return Script(text, replace(load("digits"), metric="accuracy"))


@cache
def everything() -> dict[str, Script]:
    """The scripts of all built-in tasks, and strange ones."""
    tasks = [load(name) for name in builtin_tasks()]
    own = {task.id: Script((task.env_dir / task.script).read_text(), task) for task in tasks}
    return own | {name: script_of(text) for name, text in STRANGE.items()}


def test_no_operator_is_made_for_one_task() -> None:
    fits = collections.defaultdict(set)
    for name, script in everything().items():
        for idea in operators.ideas(script):
            fits[idea.operator, idea.option].add(name)
    rewrites = {**data_operators.REWRITES, "network": tree_operators.NETWORK}
    for operator, options in rewrites.items():
        for option in options:
            where = fits[operator, option]
            assert len(where) > 1, f"{operator} {option} suits {where or 'nothing'} alone: make it general, or drop it"
    tuned = {name for (operator, _), names in fits.items() if operator == "number" for name in names}
    assert tuned >= set(STRANGE) - {"comments"}


@pytest.mark.parametrize("name", ["layers", "module"])
def test_a_script_of_pytorch_gets_ideas_that_change_what_they_say_and_nothing_else(name: str) -> None:
    script = everything()[name]
    ideas = operators.ideas(script)
    assert {idea.operator for idea in ideas} == {"number", "network"} and len(ideas) >= 10
    for idea in ideas:
        made = operators.change(idea, script, random.Random(3))
        ast.parse(made.text)
        lines = difflib.ndiff(script.text.splitlines(), made.text.splitlines())
        gone = [line for line in lines if line.startswith("- ")]
        assert 1 <= len(gone) <= 4, (idea, gone)


def test_what_is_made_of_a_script_of_pytorch() -> None:
    script = everything()["layers"]

    def made(operator: str, option: str) -> str:
        idea = next(one for one in operators.ideas(script) if (one.operator, one.option) == (operator, option))
        return operators.change(idea, script, random.Random(1)).text

    assert "opt = torch.optim.AdamW(net.parameters(), lr=1e-3)\n" in made("network", "AdamW")
    assert "opt = torch.optim.SGD(net.parameters(), lr=0.01, weight_decay=" in made("network", "decay")
    assert "nn.Linear(8, 16), nn.ReLU(), nn.Dropout(" in made("network", "dropout") and "# ü\n" in made(
        "network", "dropout"
    )
    assert "nn.CrossEntropyLoss(label_smoothing=0." in made("network", "smoothing")
    assert "nn.ReLU" not in made("network", "activation")
    numbers = {idea.option for idea in operators.ideas(script) if idea.operator == "number"}
    assert numbers == {"SGD.lr", "BATCH", "number of epochs"}, "a seed is no setting"
    assert "range(3)" not in made("number", "number of epochs") and "lr=0.01" not in made("number", "SGD.lr")


@pytest.mark.long
@pytest.mark.parametrize("name", ["layers", "module"])
def test_whatever_is_made_of_a_script_of_pytorch_runs(name: str) -> None:
    script = everything()[name]
    for idea in operators.ideas(script):
        for seed in range(4):
            text = operators.change(idea, script, random.Random(seed)).text
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(text, f"{idea.operator} {idea.option}", "exec"), {"__name__": "__main__"})
