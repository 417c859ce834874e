"""The algorithm of `learner/main.py` from its first line to the report, with actors and ranks that only pretend.

Everything on the driver is real: stream, session, checkpoints, journal, transitions, report. A stopped run goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from actors.expert.trajectory import Ending, Move, Trajectory
from actors.runtime.remote import place
from envs.records import Durations, Outcome, State, StepResult
from envs.workspace import SnapshotStore
from learner import main, parts
from learner.config.load import load
from learner.evaluation.evaluation import STAGES
from learner.ranks.group import LearnerError
from learner.ranks.rank import Published
from learner.ranks.steps import FinetuneStep, Position
from learner.reporting import report_data
from learner.run import beforehand, journal, preparation, status, transitions
from learner.run.folder import LEARNER
from learner.stream.stream import Cursor
from tests.unit import fake_run

STEPS, STATES, ACTIONS = 4, 2, 3
SETTINGS = (
    "config=smoke", "run.mode=serial", "actors.count=1", f"rl.steps={STEPS}", f"rl.states={STATES}",
    f"rl.actions={ACTIONS}", "sft.held_out=0",
)  # fmt: skip


class Loop:
    """An actor's: samples what the stream admits."""

    def __init__(self, outcome: Outcome | None):
        self._rng, self._outcome = random.Random(0), outcome

    async def collect(self, stream: Any) -> None:
        while ticket := await stream.admit.remote("actor-0"):
            version = ticket.step + 1
            changes = {"group_id": ticket.group_id, "state_id": ticket.state.id}
            changes |= {"outcome": self._outcome} if self._outcome else {}
            made = [
                fake_run.transition(self._rng, f"{ticket.group_id}/{k}", "wine", version, 0.5, **changes)
                for k in range(len(ticket.seeds))
            ]
            name = f"reached-{ticket.index}"
            made[0] = dataclasses.replace(made[0], successor=State(name, "wine", name))
            await stream.put.remote("actor-0", ticket.group_id, made)


class Actors:
    """In the place of the pool."""

    bounds, wanted, idle_seconds = (1, 1), 1, 0.0
    outcome: Outcome | None = None
    looks = 1
    """Without an answer of an evaluation beside training."""
    rewards: dict[int, float] | None = None
    """Of evaluations, by weight version."""

    def __init__(
        self, cfg: Any, tasks: list, model_dir: str, run_dir: str, version: int, say: Any, full: Any, resting: bool,
        near: Any,
    ):  # fmt: skip
        self._tasks, self._place, self._full = {task.id: task for task in tasks}, place(cfg.run.mode), full
        self.published: list[tuple[int, list]] = []
        self.serves = False

    def exploring(self) -> dict[str, dict[str, Any]]:
        return {"actor-0": {"sandbox": "process", "host": "here"}}

    def started(self) -> dict[str, dict[str, Any]]:
        self.serves = True
        return {"actor-0": {"sandbox": "process", "host": "here", "engine_seconds": 1.0}}

    def first(self, method: str, *args: Any) -> Any:
        return {"baselines": self._baselines, "fits": self._fits, "encode": self._encode}[method](*args)

    def spread(self, method: str, calls: list[tuple], each: int) -> Iterator[tuple[int, Any]]:
        for index, call in enumerate(calls):
            yield index, {"evaluate": self._evaluate, "ideas": self._ideas, "explore": self._explore}[method](*call)

    def spreading(self, method: str, calls: list[tuple], each: int) -> Iterator[tuple[int, Any] | None]:
        ended = list(self.spread(method, calls, each))
        yield from [None] * self.looks
        yield from ended

    def _baselines(self) -> dict[str, StepResult]:
        return {task_id: result(task_id, "initial", 0.5) for task_id in self._tasks}

    def _fits(self, states: list[State]) -> list[bool]:
        return [True] * len(states)

    def _encode(self, pairs: list[tuple[State, str]]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.arange(3, dtype=np.int32), np.arange(4, dtype=np.int32)) for _ in pairs]

    def _evaluate(self, task_id: str, attempts: int, seed: int) -> list:
        assert self.serves, "nobody waited for the engine"
        version = self.published[-1][0] if self.published else 0
        given = {"reward": self.rewards[version]} if self.rewards else {}
        one = functools.partial(fake_run.transition, random.Random(seed), task_id=task_id, version=version, skill=0.5)
        return [one(name=f"e/{k}", **given) for k in range(attempts)]

    def _ideas(self, task_id: str, seed: int) -> tuple[int, tuple]:
        return 0, ()

    def _explore(self, task_id: str, number: int, ideas: tuple) -> Trajectory:
        move = Move(State("initial", task_id, "snapshot"), fake_run.EDIT, result(task_id, f"better-{number}", 0.4))
        assert not self.serves, "the expert waited for an engine that it does not need"
        return Trajectory(task_id, number, "builtin", (), (move,), Ending.IMPROVED)

    def set_baselines(self, m_init: dict[str, float]) -> None:
        assert m_init.keys() == self._tasks.keys()

    def publish(self, version: int, buckets: list) -> float:
        assert self.serves, "nobody waited for the engine"
        self.published.append((version, buckets))
        return 0.0

    def collect(self, stream: Any) -> None:
        self._collecting = self._place.spawn(Loop, {}, self.outcome).collect.remote(stream)

    def check(self) -> None:
        assert self._full() == ["whole"], "an actor that joins gets no weights"
        if self._place.wait([self._collecting], timeout=0.0)[0]:
            self._place.get(self._collecting)  # raises what ended it

    def activity(self) -> dict[str, int]:
        return {"actors_alive": 1, "actors_total": 1, "experiments": 0}

    def finish(self) -> None:
        self._place.get(self._collecting, timeout=60)

    def close(self) -> None:
        closed.append("actors")


class Ranks:
    """In the place of the learner; its weights are the versions that it trained."""

    stops_at = gap = None

    def __init__(self, cfg: Any, model_dir: Path, say: Any, places: Any):
        self.cfg, self.position, self.trained = cfg, Position(), []

    def loss(self, examples: list) -> float | None:
        return 1.0 if examples else None

    def finetune(self, examples: list) -> Iterator[FinetuneStep]:
        yield FinetuneStep(step=1, total=1, loss=1.0, grad_norm=1.0, learning_rate=1e-5, tokens_per_s=1.0)

    def train(self, groups: list, version: int) -> Any:
        if version == self.stops_at:
            raise KeyboardInterrupt
        self.trained.append(version)
        return fake_run.report_of({"loss": 0.1, "logprob_gap_mean": self.gap or 0.0}, **fake_run.learned(RNG, groups))

    def publish(self, bucket_bytes: int, version: int, full: bool = False) -> Published:
        return Published(["whole" if full else "part"], 1, 2)

    def save(self, folder: Path) -> None:
        self._write(folder, self.trained)

    def saving(self, folder: Path) -> Generator[None, None, bool]:
        copy = list(self.trained)
        yield
        self._write(folder, copy)
        return True

    def _write(self, folder: Path, trained: list[int]) -> None:
        (folder / "hf").mkdir()
        fake_run.tokenizer().save(str(folder / "hf/tokenizer.json"))
        (folder / "trained").write_text(" ".join(map(str, trained)))
        (folder / LEARNER).parent.mkdir()
        (folder / LEARNER).touch()

    def restart_from(self, folder: Path) -> None:
        assert (folder / "trained").exists()

    def load(self, folder: Path) -> None:
        self.trained = [int(version) for version in (folder / "trained").read_text().split()]

    def close(self) -> None:
        closed.append("learner")


RNG = random.Random(1)
closed: list[str] = []


def result(task_id: str, state: str, score: float) -> StepResult:
    reached = State(state, task_id, state, score=score)
    return StepResult("edit", Outcome.EDITED, 0.5, score, "", "", Durations(execute=1.0), reached)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `main` with settings; returns its exit code and the learner."""
    tasks = {name: fake_run.TASKS[name] for name in ("wine", "breast_cancer")}
    learners = []
    monkeypatch.setattr(parts, "ActorPool", Actors)
    monkeypatch.setattr(parts, "Learner", lambda *args: learners.append(Ranks(*args)) or learners[-1])
    monkeypatch.setattr(beforehand, "require", lambda *_, dry: None)
    monkeypatch.setattr(parts, "connect", lambda cfg: None)
    monkeypatch.setattr(parts, "load_tasks", lambda cfg: tasks)
    monkeypatch.setattr(parts, "resolve", lambda path: tmp_path)
    closed.clear()

    def with_settings(*settings: str, given: tuple[str, ...] = SETTINGS) -> tuple[int, Ranks]:
        code = main.main([*given, f"run.dir={tmp_path}", *settings])
        assert closed == ["learner", "actors"], "what was started last ends first"
        closed.clear()
        return code, learners[-1]

    return with_settings


@pytest.mark.slow
def test_what_is_done_is_not_done_again_wherever_a_run_is_interrupted(run, tmp_path, monkeypatch):
    """In the second task of each evaluation; what fine-tuning learned is kept before it is evaluated."""
    evaluate, asked = Actors._evaluate, []

    def interrupted(self, task_id: str, attempts: int, seed: int) -> list:
        asked.append(task_id)
        if len(asked) in (2, 5, 8):
            raise KeyboardInterrupt
        return evaluate(self, task_id, attempts, seed)

    monkeypatch.setattr(Actors, "_evaluate", interrupted)
    assert run()[0] == 130
    monkeypatch.setattr(Actors, "_explore", None)
    assert run("run.resume=true")[0] == 130
    assert (tmp_path / "smoke/checkpoints/step_0/hf").exists()
    monkeypatch.setattr(Ranks, "finetune", None)
    assert run("run.resume=true")[0] == 130
    monkeypatch.setattr(Ranks, "train", None)
    code, learner = run("run.resume=true")
    assert code == 0 and learner.trained == [1, 2, 3, 4]
    assert len(asked) == 3 * 2 + 3, "all tasks at all stages, and those that were interrupted once more"
    tasks = json.loads((tmp_path / "smoke/evaluation.json").read_text())["tasks"]
    assert len({str(task["stages"][stage]["rewards"]) for task in tasks for stage in STAGES}) == 1, "as they were made"


def test_an_interrupted_run_goes_on_and_tells_every_step_once(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Ranks, "stops_at", 3)
    assert run()[0] == 130
    folder = tmp_path / "smoke"
    hint = f"run.resume=true run.name=smoke run.dir={tmp_path}"
    assert capsys.readouterr().err == f"interrupted: {hint} goes on from its last checkpoint\n"
    monkeypatch.setattr(Ranks, "stops_at", None)
    code, learner = run("learner.grad_clip=0.5", given=tuple(hint.split()))
    assert code == 0 and learner.trained == [1, 2, 3, 4], "each version once, over both processes"
    rows = journal.read(folder)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["publish_share"] == 0.5 and row["loss"] == 0.1 and row["wait_seconds"] >= 0 for row in rows)
    assert [row["stream_trained"] for row in rows] == [STATES * step for step in (1, 2, 3, 4)]
    ids = [row["id"] for row in transitions.read(folder, ["id"])]
    assert len(ids) == len(set(ids)) == STEPS * STATES * ACTIONS
    evaluation = (folder / "evaluation.json").read_text()
    assert all(f'"{stage}"' in evaluation for stage in STAGES)
    first, second = ((folder / f"logs/{start}/log.txt").read_text().splitlines() for start in (1, 2))
    assert first[-1].endswith("] interrupted") and second[-1].endswith("] done")
    assert "learner.grad_clip is 0.5 from here on; it was 1.0" in second and "reinforce 2/4" in " ".join(first)
    assert 'class="badge done">done<' in (folder / "report.html").read_text() and status.of(folder).result == "done"
    assert (folder / "checkpoints/step_4/hf").exists()


@pytest.fixture
def handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def terminate(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


def close_terminal(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(10)


def crash(*_: Any) -> None:
    raise ZeroDivisionError("a defect\nof ours")


def lose_the_ranks(*_: Any) -> None:
    raise ActorDiedError


def fail_for_a_known_reason(*_: Any) -> None:
    raise LearnerError("rank 0 is out of memory\nmore of it")


LOST = "Ray lost a part of the run: "
ENDS = [
    (interrupt, 130, "interrupted", ""),
    (terminate, 130, "interrupted", ""),
    (close_terminal, 130, "interrupted", ""),
    (crash, None, "failed", "ZeroDivisionError: a defect"),
    (lose_the_ranks, 1, "failed", LOST),
    (fail_for_a_known_reason, 1, "failed", "rank 0 is out of memory"),
]


@pytest.mark.parametrize("at", ["learner", "train"])
@pytest.mark.parametrize(("how", "code", "result", "reason"), ENDS, ids=lambda one: getattr(one, "__name__", ""))
def test_what_has_become_of_a_run_is_told_truly(run, tmp_path, monkeypatch, handlers, at, how, code, result, reason):
    """Whether it ends while it starts or while it trains."""
    monkeypatch.setattr(parts, "connect", preparation.connect)
    monkeypatch.setattr(*((Ranks, "train") if at == "train" else (parts, "Learner")), how)
    arguments = ["sft.epochs=0", "rl.steps=1", "evaluation.attempts=1"]
    with contextlib.suppress(ZeroDivisionError):
        assert main.main([*SETTINGS, f"run.dir={tmp_path}", *arguments]) == code
    told = status.of(tmp_path / "smoke")
    assert told.result == result and told.reason.startswith(reason) and bool(told.reason) == bool(reason)
    assert all(stage.ended for stage in told.stages)
    assert report_data.load(tmp_path / "smoke").status == told
    page = tmp_path / "smoke/report.html"
    assert page.exists() == (at == "train") and (not page.exists() or f'badge {result}"' in page.read_text())


def test_what_a_checkpoint_needs_is_kept_though_it_has_left_the_pool(run, tmp_path, monkeypatch):
    collected: list[set[str]] = []
    folder = tmp_path / "smoke/checkpoints"

    def collect(self: SnapshotStore, keep: Iterable[State], older_than: float) -> int:
        kept = {state.snapshot for state in keep}
        last = max(folder.glob("step_*"), key=lambda path: int(path.name[5:])) / "cursor.msgpack"
        needed = {state.snapshot for state in msgspec.msgpack.decode(last.read_bytes(), type=Cursor).states}
        assert needed | {"snapshot"} <= kept, "and the expert's"
        collected.append(needed)
        return 0

    monkeypatch.setattr(SnapshotStore, "collect", collect)
    assert run("rl.pool_states=1", "rl.max_staleness=1")[0] == 0
    assert len(collected) > STEPS and len(set.union(*collected)) > 2, "states came and went"
    assert all(len([name for name in needed]) <= 1 + STATES * 2 for needed in collected)


def test_log_probs_that_are_far_apart_end_the_run_and_near_ones_do_not(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(Ranks, "gap", load([]).rl.gap_warn * 1.5)
    assert run("run.name=warned")[0] == 0
    assert "> rl.gap_warn" in capsys.readouterr().out
    monkeypatch.setattr(Ranks, "gap", load([]).rl.gap_stop * 1.5)
    assert run("run.name=stopped")[0] == 1
    assert "> rl.gap_stop" in capsys.readouterr().err


def test_a_run_whose_every_experiment_fails_says_so(run, monkeypatch, capsys):
    monkeypatch.setattr(Actors, "outcome", Outcome.INFRA_FAILURE)
    assert run()[0] == 1
    assert "every experiment of a learner step failed; the last: " in capsys.readouterr().err


def points(folder: Path) -> dict[int, float]:
    """Rewards on held-out tasks, by learner step."""
    told = [row["held_out"] for row in journal.read(folder) if row.get("held_out")]
    assert len({point["step"] for point in told}) == len(told)
    assert all(point["reward_low"] <= point["reward"] <= point["reward_high"] for point in told)
    return {point["step"]: point["reward"] for point in told}


def test_held_out_tasks_are_tried_beside_training_and_choose_the_best_checkpoint(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Actors, "rewards", {0: 0.1, 1: 0.5, 2: 0.6, 3: 0.9, 4: 0.7, 5: 0.8})
    assert run("evaluation.every=1", "checkpoint.keep=1", "checkpoint.every=100")[0] == 0
    folder = tmp_path / "smoke"
    assert points(folder) == {1: 0.6, 2: 0.9, 3: 0.7}, "the last is that of the stage rl"
    assert os.readlink(folder / "checkpoints/best") == "step_2"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best", "step_2", "step_4"}
    assert "held-out tasks after step 2: reward 0.900 (0.900 to 0.900), " in capsys.readouterr().out
    assert "Held-out reward" in (folder / "report.html").read_text()


def test_training_that_no_longer_helps_held_out_tasks_ends_early(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Actors, "rewards", {0: 0.1, 1: 0.5} | dict.fromkeys(range(2, 9), 0.4))
    monkeypatch.setattr(Actors, "looks", 3)
    code, learner = run("rl.steps=8", "evaluation.every=2", "evaluation.patience=1", "checkpoint.every=100")
    folder = tmp_path / "smoke"
    assert code == 0 and learner.trained == [1, 2, 3], "the point of step 2 came while step 3 was sampled"
    assert "RL ends after step 3: 1 evaluations in a row" in capsys.readouterr().out
    assert (folder / "checkpoints/step_3/hf").exists() and os.readlink(folder / "checkpoints/best") == "step_0"
    last = msgspec.msgpack.decode((folder / "checkpoints/step_3/cursor.msgpack").read_bytes(), type=Cursor)
    assert last.experience.added and last.untrained, "with more patience it goes on from there"
    assert status.of(folder).result == "done" and '"rl"' in (folder / "evaluation.json").read_text()


@pytest.mark.parametrize("left", [2, 0])
def test_what_weights_earned_that_are_trained_anew_is_not_taken_for_what_the_new_ones_do(
    run, tmp_path, monkeypatch, left
):
    """A run that was killed between an evaluation and the checkpoint beside it, or has lost all of them."""
    monkeypatch.setattr(Actors, "rewards", dict.fromkeys(range(6), 0.9))
    monkeypatch.setattr(Ranks, "stops_at", 4)
    assert run("evaluation.every=2", "checkpoint.every=1", "checkpoint.keep=9")[0] == 130
    assert points(tmp_path / "smoke") == {2: 0.9}
    checkpoints = tmp_path / "smoke/checkpoints"
    for path in checkpoints.glob("step_*"):
        if int(path.name[5:]) >= left:
            shutil.rmtree(path)
    monkeypatch.setattr(Actors, "rewards", dict.fromkeys(range(6), 0.2) | {1: 0.4})
    monkeypatch.setattr(Ranks, "stops_at", None)
    assert run("run.resume=true", "run.name=smoke", given=())[0] == 0
    assert points(tmp_path / "smoke") == {2: 0.2}
    assert [row["step"] for row in journal.read(tmp_path / "smoke")] == [1, 2, 3, 4]
    stages = json.loads((tmp_path / "smoke/evaluation.json").read_text())["splits"]["held_out"]
    assert [stages[stage]["mean_reward"] for stage in STAGES] == pytest.approx([0.9, 0.9 if left else 0.4, 0.2])
    assert os.readlink(checkpoints / "best") == "step_0", "as fine-tuned"


def test_an_evaluation_beside_training_that_was_interrupted_is_made_once_more(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Actors, "rewards", {version: version / 10 for version in range(6)})
    monkeypatch.setattr(Actors, "looks", 100)
    monkeypatch.setattr(Ranks, "stops_at", 3)
    settings = "evaluation.every=1", "evaluation.patience=4"
    assert run(*settings)[0] == 130
    assert points(tmp_path / "smoke") == {}
    monkeypatch.setattr(Actors, "looks", 1)
    monkeypatch.setattr(Ranks, "stops_at", None)
    code, learner = run(*settings, "run.resume=true")
    assert code == 0 and learner.trained == [1, 2, 3, 4]
    assert points(tmp_path / "smoke")[2] == pytest.approx(0.3), "that of the last checkpoint, which nobody had heard of"
