"""The data behind the trajectory browser: complete, joined, and unpacked to what was written."""

import base64
import gzip
import json

import pytest

from learner.reporting import browser, report_data
from learner.run import transitions
from tests.unit.fake_run import make, prompt


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return report_data.load(make(tmp_path_factory.mktemp("runs") / "run", steps=3, actions=4))


def unpack(packed: str) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_each_transition_is_joined_with_all_that_is_known_of_it(run):
    packed, blocks = browser.build(run, [1, 2, 3])
    index = unpack(packed)
    details = {step: unpack(block) for step, block in blocks.items()}
    tried = {stage: transitions.read_part(run.dir, stage) for stage in ("base", "sft", "rl")}
    for stage, rows in tried.items():
        for row in rows:
            row |= {"step": stage, "id": f"{stage}/{row['id']}"}
    written = [*tried["base"], *tried["sft"], *transitions.read(run.dir), *tried["rl"]]
    assert index["id"] == [row["id"] for row in written]
    for i, row in enumerate(written):
        of_step = index["step"][:i].count(row["step"])
        found = details[row["step"]]["rows"][of_step]
        assert [index[name][i] for name in ("advantage", "ratio", "loss")] == [
            row[name] for name in ("advantage", "ratio", "loss")
        ]
        assert details[row["step"]]["prompts"][found["prompt"]] == prompt(row["task_id"])
        assert found["tokens"] == [len(row["prompt_ids"]), len(row["response_ids"])]
        assert found["log"] == row["log_tail"] and found["parts"] == row["reward_parts"]
        assert found["seconds"]["execute"] == row["execute_seconds"]
        spans = [(span["version"], span["start"], span["end"]) for span in row["version_spans"]]
        assert [tuple(span[:3]) for span in found["spans"]] == spans
        if len(spans) > 1:
            assert "".join(text for *_, text in found["spans"]) == row["text"]


def test_only_chosen_steps_are_kept_and_prompts_need_a_tokenizer(run):
    for file in run.dir.glob("checkpoints/*/hf/tokenizer.json"):
        file.write_text('{"cut": ')  # damaged, which is as good as none
    packed, blocks = browser.build(run, [2])
    assert set(unpack(packed)["step"]) == {2, "base", "sft", "rl"} == set(blocks)
    block = unpack(blocks[2])
    assert block["prompts"] == [] and {row["prompt"] for row in block["rows"]} == {None}


def test_the_newest_half_and_a_spread_of_the_rest_are_chosen():
    chosen = browser.choose(range(1, 1001), 100)
    assert chosen[50:] == list(range(951, 1001)) and chosen[:3] == [1, 20, 39]
    assert len(set(chosen)) == 100 and chosen == sorted(chosen)
    assert browser.choose([1, 2, 3], 100) == [1, 2, 3]
    assert browser.choose([1, 2, 3], 1) == [3]


def test_what_json_has_not_becomes_null():
    assert unpack(browser.pack([float("nan"), float("inf"), 1.5])) == [None, None, 1.5]
