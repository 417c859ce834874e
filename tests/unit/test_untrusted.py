"""What comes from outside, or may have been copied from there, is data: none of it can name what is called."""

from __future__ import annotations

import ast
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from envs.records import Outcome, State, StepInfo, Transition
from learner.stream.packed import StreamError, unpack

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("actors", "cluster", "envs", "learner", "reward")
UNPICKLERS = {"pickle.load", "pickle.loads", "cloudpickle.loads", "pandas.read_pickle", "pd.read_pickle", "joblib.load",
              "dill.loads", "marshal.loads", "yaml.load", "yaml.unsafe_load", "torch.load"}  # fmt: skip
COPIES_ITS_OWN = {("actors/runtime/remote.py", "pickle.loads")}
"""What it reads it has just written, in the same process."""


class Call:
    """Unpickled by a reader that calls what it is told to, it makes the folder."""

    def __init__(self, folder: Path):
        self._folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self._folder,)


def transition() -> Transition:
    return Transition(
        id="g/0", group_id="g", state_id="s", task_id="wine",
        prompt_ids=np.arange(5, dtype=np.int32), response_ids=np.arange(3, dtype=np.int32),
        behaviour_logprobs=np.full(3, -1.5, np.float32),
        version_spans=((1, 0, 3),), outcome=Outcome.EDITED, reward=np.float64(0.5),
        successor=State("s2", "wine", "snap"),
        info=StepInfo(actor_id="actor-0", action="edit", score_after=1.0, reward_parts={"improvement": 0.5}),
    )  # fmt: skip


@pytest.mark.parametrize("protocol", [pickle.DEFAULT_PROTOCOL, 5])
def test_a_group_of_the_stream_is_read_back_whole(protocol):
    (group,) = unpack([pickle.dumps([transition()], protocol)])
    np.testing.assert_array_equal(group[0].prompt_ids, transition().prompt_ids)
    assert (group[0].outcome, group[0].reward, group[0].successor) == (Outcome.EDITED, 0.5, State("s2", "wine", "snap"))
    assert group[0].info == transition().info


def test_a_group_that_names_anything_but_records_is_refused_and_runs_nothing(tmp_path):
    with pytest.raises(StreamError, match="names posix.mkdir"):
        unpack([pickle.dumps([Call(tmp_path / "made")])])
    for module, name in (("envs.records", "Path"), ("envs.records", "np.load"), ("envs.records", "field")):
        with pytest.raises(StreamError, match=f"names {module}.{name}"):
            unpack([b"\x80\x04\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(name)])
                    + name.encode() + b"\x93."])  # fmt: skip
    assert not (tmp_path / "made").exists()


def test_nothing_else_in_the_project_unpickles_or_runs_a_models_code():
    for path in (file for room in ROOMS for file in (ROOT / room).rglob("*.py") if "tasks" not in file.parts):
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in UNPICKLERS:
                assert (name, called) in COPIES_ITS_OWN, f"{name}:{node.lineno} calls {called}"
            if isinstance(node, ast.keyword):
                assert node.arg not in ("trust_remote_code", "allow_pickle"), f"{name}:{node.lineno} {node.arg}"
