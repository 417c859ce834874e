"""A run's folder: never overwritten, owned once, checkpoints complete or absent."""

import errno
import fcntl
import os
import pickle
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from omegaconf import OmegaConf

from envs.records import Outcome, State, Step, StepInfo, Transition
from learner.config.defaults import defaults
from learner.run.checkpointing import Checkpointing
from learner.run.folder import LEARNER, Lost, NoRoom, Run, RunError
from learner.stream.packed import unpack
from learner.stream.states import Experience
from learner.stream.stream import Cursor, Untrained


class DiskLearner:
    """Stands for the DeepSpeed learner at the process border: saves a file, or fails half-way."""

    def __init__(self, full: bool = False):
        self.full = full

    def save(self, folder):
        (folder / "weights").write_text("half" if self.full else "weights")
        if self.full:
            raise OSError(28, "No space left on device", str(folder))

    def restart_from(self, folder):
        assert (folder / "weights").exists()

    def load(self, folder):
        assert (folder / "weights").exists()


class Whole(DiskLearner):
    """Leaves what a resumed run looks for."""

    def save(self, folder):
        super().save(folder)
        (folder / LEARNER).parent.mkdir()
        (folder / LEARNER).write_text("{}")


class Beside(DiskLearner):
    """Writes while training goes on; a rank of it may die meanwhile."""

    def __init__(self, lives: bool = True):
        super().__init__()
        self.lives = lives

    def saving(self, folder):
        (folder / "weights").write_text("half")
        yield
        (folder / "weights").write_text("weights")
        return self.lives


def saved(run, *what):
    """The folder of a checkpoint that is waited for."""
    with pytest.raises(StopIteration) as ended:
        next(run.saving(*what))
    run.judge({}, forget=True)
    return ended.value.value


def config(tmp_path, **changes):
    cfg = defaults()
    cfg.run.dir, cfg.run.name = str(tmp_path), "r"
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value)
    return cfg


def transition(name: str) -> Transition:
    return Transition(
        id=name,
        group_id="g",
        state_id="s",
        task_id="t",
        prompt_ids=np.arange(3, dtype=np.int32),
        response_ids=np.arange(2, dtype=np.int32),
        behaviour_logprobs=np.array([-0.5, -1.5], dtype=np.float32),
        version_spans=((1, 0, 2),),
        outcome=Outcome.EDITED,
        reward=0.5,
        info=StepInfo(text="x", action="edit", score_before=0.1, reward_parts={"gain": 0.5}),
    )


def test_an_earlier_run_is_moved_aside_not_overwritten(tmp_path):
    with Run(config(tmp_path)) as run:
        (run.dir / "evaluation.json").write_text("{}")
    with Run(config(tmp_path)) as run:
        assert not (run.dir / "evaluation.json").exists()
    assert [p.parent.name for p in tmp_path.glob("*/evaluation.json")] != ["r"]
    assert len(list(tmp_path.glob("r.*/evaluation.json"))) == 1


def test_of_a_run_that_is_done_only_the_last_checkpoint_can_be_gone_on_from(tmp_path):
    with Run(config(tmp_path)) as run:
        assert run.done() == 0, "there is none"
        for step in (1, 2):
            folder = run.dir / f"checkpoints/step_{step}"
            for name in (LEARNER, "hf/model", "cursor.msgpack"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text("four")
        assert run.done() == 4 and run.done() == 0
        assert (folder / LEARNER).exists() and not (run.dir / "checkpoints/step_1" / LEARNER).exists()
        assert (run.dir / "checkpoints/step_1/hf/model").exists() and len(run.checkpoints) == 2


def test_a_run_has_one_owner(tmp_path):
    with Run(config(tmp_path)), pytest.raises(RunError, match="in use"), Run(config(tmp_path)):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", without)
    refused = pytest.raises(RunError, match=r"run.dir=.* locks no files \(Function not implemented\)")
    with refused, Run(config(tmp_path)):
        pass


def test_a_folder_that_cannot_be_written_is_said_with_its_key(tmp_path):
    (tmp_path / "file").touch()
    refused = pytest.raises(RunError, match=r"run.dir=.*file cannot be written: .*Not a directory.*: choose another")
    with refused, Run(config(tmp_path / "file")):
        pass


def test_each_start_keeps_its_configuration_and_one_that_fails_early_changes_nothing(tmp_path):
    def steps(file: str) -> int:
        return OmegaConf.load(tmp_path / "r" / file).rl.steps

    with Run(config(tmp_path, **{"rl.steps": 1})) as run:
        assert run.changes == [] and steps("config.yaml") == 1, "a restart finds it, however early it is lost"
    with Run(config(tmp_path, **{"rl.steps": 2, "run.resume": True})) as run:
        assert run.changes == ["rl.steps is 2 from here on; it was 1"]
    assert (steps("config.yaml"), steps("logs/1/config.yaml"), steps("logs/2/config.yaml")) == (1, 1, 2)
    with Run(config(tmp_path, **{"rl.steps": 3, "run.resume": True})) as run:
        run.ready()
    assert (steps("config.yaml"), steps("logs/3/config.yaml")) == (3, 3)
    assert not OmegaConf.load(tmp_path / "r/config.yaml").run.resume
    with Run(config(tmp_path)) as run:
        assert run.logs == tmp_path / "r/logs/1"


def test_a_checkpoint_restores_the_stream_and_old_ones_are_deleted(tmp_path):
    good = State("n", "t", "snap", (Step("act", "seen"),), 0.5, 0.4, (("old", None),), "middle")
    groups = [[transition("a"), transition("b")]]
    untrained = {7: Untrained("s", 2), 8: Untrained("s", 3, pickle.dumps(groups[0]))}
    cursor = Cursor(3, 9, 7, untrained, Experience({"s": 0.25}, [good]), [replace(good, id="left")])
    with Run(config(tmp_path, **{"checkpoint.keep": 2})) as run:
        for step in (1, 2):
            saved(run, Cursor(step), DiskLearner())
        saved(run, cursor, DiskLearner())
        assert [p.name for p in run.checkpoints] == ["step_2", "step_3"]
        restored = run.restore(run.checkpoints[-1], DiskLearner())
    assert restored == cursor and restored.states == [good, *cursor.gone]
    (group,) = unpack([restored.untrained[8].packed])
    assert [t.id for t in group] == ["a", "b"]
    np.testing.assert_array_equal(group[0].behaviour_logprobs, groups[0][0].behaviour_logprobs)


def test_a_cursor_that_an_earlier_version_wrote_is_read():
    earlier = {"step": 3, "next_index": 9, "trained": 7, "untrained": {7: {"state": "s", "step": 2, "packed": None}}}
    earlier["experience"] = {"spread": {"s": 0.25}, "added": [{"id": "n", "task_id": "t", "snapshot": "snap"}]}
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(earlier), type=Cursor)
    assert read == Cursor(3, 9, 7, {7: Untrained("s", 2)}, Experience({"s": 0.25}, [State("n", "t", "snap")]))
    waiting = transition("a")
    for name in ("reached", "future"):
        del vars(waiting)[name]
    ((back,),) = unpack([pickle.dumps([waiting])])
    assert (back.reached, back.worth) == (None, back.reward)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    with Run(config(tmp_path)) as run:
        saved(run, Cursor(1), DiskLearner())
        with pytest.raises(NoRoom, match="No space left"):
            saved(run, Cursor(2), DiskLearner(full=True))
        assert [p.name for p in run.checkpoints] == ["step_1"]
        assert sorted(p.name for p in (run.dir / "checkpoints").iterdir()) == ["step_1"]


@pytest.mark.parametrize("learner", [DiskLearner(), DiskLearner(full=True)])
def test_a_disk_without_room_is_told_from_other_failures(tmp_path, monkeypatch, learner):
    """It is full from the start, or others fill it while the checkpoint is written."""
    with Run(config(tmp_path)) as run:
        saved(run, Cursor(1), DiskLearner())
        usage = shutil.disk_usage(tmp_path)
        free = iter([usage.free, 0] if learner.full else [0])
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(free)))
        with pytest.raises(NoRoom, match="0 MiB of room"):
            saved(run, Cursor(2), learner)
        assert sorted(p.name for p in (run.dir / "checkpoints").iterdir()) == ["step_1"]


def test_a_disk_that_held_the_whole_checkpoint_was_not_too_small_for_it(tmp_path, monkeypatch):
    class Broken(DiskLearner):
        def save(self, folder):
            super().save(folder)
            raise OSError(5, "Input/output error")

    with Run(config(tmp_path)) as run:
        saved(run, Cursor(1), DiskLearner())
        usage = shutil.disk_usage(tmp_path)
        free = iter([usage.free, 0])
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(free)))
        with pytest.raises(OSError, match="Input/output error"):
            saved(run, Cursor(2), Broken())


def names(run):
    return sorted(path.name for path in (run.dir / "checkpoints").iterdir())


def test_what_is_written_beside_training_counts_when_all_of_it_is_there(tmp_path):
    with Run(config(tmp_path)) as run:
        saved(run, Cursor(1), DiskLearner())
        writing = run.saving(Cursor(2), Beside(), beside=True)
        next(writing)
        assert [path.name for path in run.checkpoints] == ["step_1"]
        with pytest.raises(StopIteration):
            next(writing)
        assert [path.name for path in run.checkpoints] == ["step_1", "step_2"]
        assert (run.checkpoints[-1] / "weights").read_text() == "weights"
        with pytest.raises(Lost, match="a learner rank died"):
            list(run.saving(Cursor(3), Beside(lives=False), beside=True))
        assert names(run) == ["step_1", "step_2"]


def test_what_a_run_that_ended_had_begun_to_write_is_deleted(tmp_path):
    with Run(config(tmp_path)) as run:
        state = saved(run, Cursor(1), DiskLearner()) / LEARNER
        state.parent.mkdir()
        state.touch()
        writing = run.saving(Cursor(2), Beside(), beside=True)
        next(writing)
        shutil.copytree(run.dir / "checkpoints/.partial-step_2", tmp_path / "killed")
    assert names(run) == ["step_1"], "when it ends by itself"
    (tmp_path / "killed").rename(run.dir / "checkpoints/.partial-step_2")
    with Run(config(tmp_path, **{"run.resume": True})) as resumed:
        saved(resumed, Cursor(3), DiskLearner())
        assert names(resumed) == ["step_1", "step_3"], "when it was killed"


def test_the_best_checkpoint_is_kept_and_can_be_found(tmp_path):
    with Run(config(tmp_path, **{"checkpoint.keep": 1})) as run:
        for step, reward in enumerate([None, 0.2, 0.5, 0.4, 0.1]):
            saved(run, Cursor(step), DiskLearner(), reward)
        assert [p.name for p in run.checkpoints] == ["step_2", "step_4"]
        assert (run.dir / "checkpoints/best").resolve().name == "step_2"
        saved(run, Cursor(5), DiskLearner(), 0.5)
        assert [p.name for p in run.checkpoints] == ["step_5"]
        assert (run.dir / "checkpoints/best").resolve().name == "step_5"


def test_a_full_disk_while_the_best_is_chosen_costs_no_run_and_no_checkpoint(tmp_path, monkeypatch):
    said = []
    with Run(config(tmp_path, **{"checkpoint.keep": 1, "checkpoint.beside": False})) as run:
        checkpoints = Checkpointing(run, DiskLearner(), said.append)

        def save(step, reward):
            checkpoints.earned(reward)
            assert checkpoints.save(Cursor(step))

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        save(1, 0.5)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "symlink_to", full)
            save(2, 0.9)
        assert "checkpoints/best stays as it is: [Errno 28]" in said[-1] and names(run) == ["best", "step_1", "step_2"]
        assert os.readlink(run.dir / "checkpoints/best") == "step_1"
        save(3, 0.1)
        assert names(run) == ["best", "step_2", "step_3"]
        assert os.readlink(run.dir / "checkpoints/best") == "step_2"


def test_checkpoints_that_were_chosen_by_other_rewards_are_not_compared_with_those_that_come(tmp_path):
    with Run(config(tmp_path)) as run:
        for step, reward in enumerate([None, 0.9, 0.5]):
            saved(run, Cursor(step), Whole(), reward)
    best = run.dir / "checkpoints/best"
    assert best.resolve().name == "step_1"
    with Run(config(tmp_path, **{"run.resume": True, "evaluation.every": 2})) as run:
        assert best.exists(), "it has not come to run yet"
        run.ready()
        assert not best.is_symlink()
        saved(run, Cursor(3), Whole())
        run.judge({3: 0.2})
        assert best.resolve().name == "step_3"
    with Run(config(tmp_path, **{"run.resume": True, "evaluation.every": 2})) as run:
        run.ready()
        assert best.resolve().name == "step_3"


def test_a_checkpoint_of_an_earlier_version_is_refused_before_anything_starts(tmp_path):
    with Run(config(tmp_path)) as run:
        saved(run, Cursor(step=3), DiskLearner())
    refused = pytest.raises(RunError, match=r"step_3 has no state/about.json.*model.path=.*step_3/hf")
    with refused, Run(config(tmp_path, **{"run.resume": True})):
        pass


def test_a_disk_without_room_for_this_user_is_a_full_one(tmp_path):
    class Quota(DiskLearner):
        def save(self, folder):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(folder))

    with Run(config(tmp_path)) as run, pytest.raises(NoRoom, match="quota exceeded"):
        saved(run, Cursor(1), Quota())


def test_a_checkpoint_that_is_deleted_in_part_is_none(tmp_path, monkeypatch):
    """Its driver was killed, or somebody reads a file of it on NFS."""
    with Run(config(tmp_path, **{"checkpoint.keep": 1})) as run:
        saved(run, Cursor(1), DiskLearner(), 0.5)
        delete = shutil.rmtree

        def in_part(folder, ignore_errors=False):
            if folder.name.endswith("step_1"):
                (folder / "reward.json").unlink(missing_ok=True)
                if not ignore_errors:
                    raise OSError(errno.ENOTEMPTY, "Directory not empty", str(folder))
            else:
                delete(folder, ignore_errors)

        monkeypatch.setattr(shutil, "rmtree", in_part)
        for step, reward in ((2, 0.9), (3, 0.9)):
            saved(run, Cursor(step), DiskLearner(), reward)
            assert [path.name for path in run.checkpoints] == [f"step_{step}"]


def test_a_full_disk_spoils_no_reward_of_a_checkpoint(tmp_path):
    with Run(config(tmp_path)) as run:
        for step in (1, 2):
            saved(run, Cursor(step), DiskLearner(), 0.5)
        _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))  # nothing can be written
        try:
            run.judge({1: 0.5, 2: 0.5})  # as it is known
            with pytest.raises(OSError, match="too large"):
                run.judge({1: 0.9})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (run.dir / "checkpoints/best").resolve().name == "step_2"
        run.judge({1: 0.9})
        assert (run.dir / "checkpoints/best").resolve().name == "step_1"


def test_a_copy_that_somebody_made_of_a_checkpoint_is_none(tmp_path):
    with Run(config(tmp_path)) as run:
        made = saved(run, Cursor(8), DiskLearner())
        shutil.copytree(made, made.with_name("step_8.bak"))
        shutil.copytree(made, made.with_name("step_8_0"))
        assert [path.name for path in run.checkpoints] == ["step_8"]


def test_a_cursor_that_is_not_whole_is_refused_before_anything_starts(tmp_path):
    """A machine that goes away may keep the names of files, and not what was in them."""
    with Run(config(tmp_path)) as run:
        made = saved(run, Cursor(3, 9, 7), Whole()) / "cursor.msgpack"
        made.write_bytes(made.read_bytes()[:-3])
    refused = pytest.raises(RunError, match=r"step_3/cursor.msgpack cannot be read .*: move step_3 elsewhere")
    with refused, Run(config(tmp_path, **{"run.resume": True})):
        pass
