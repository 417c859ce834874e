"""What a run shows of itself: on a terminal, in a log, and to another process."""

import contextlib
import dataclasses
import fcntl
import io
import os
import re
import subprocess
import sys
import threading
import time

import pytest
from ray.exceptions import RayTaskError
from rich.console import Console

from envs.errors import UserError
from learner.run import panel, progress, status
from learner.run.progress import Progress, follow
from learner.run.status import Point, Stage, State, Status


def log() -> Console:
    return Console(file=io.StringIO(), width=120)


def terminal() -> Console:
    return Console(file=io.StringIO(), width=100, height=40, force_terminal=True)


def shown(renderable) -> str:
    console = log()
    console.print(renderable)
    return console.file.getvalue()


def learner_step(step: int, reward: float) -> dict:
    return {
        "step": step,
        "reward_mean": reward,
        "valid_rate": 0.75,
        "outcomes": {"edited": 12, "invalid": 4},
        "staleness_max": 1,
        "tokens_per_s": 512.0,
        "logprob_gap_mean": 0.004,
        "task_rewards": {"wine": 0.5},
    }


def test_a_log_gets_a_line_per_stage_and_learner_step_without_escape_codes(tmp_path):
    console = log()
    with Progress(tmp_path, console) as view:
        view.stage("expert", 50)
        for _ in range(50):
            view.advance()
        view.stage("fine-tune", 0)
        for step in (1, 2):
            view.advance(step=step, total=2, loss=0.5)
        view.stage("reinforce", 3)
        view.advance(**learner_step(1, 0.4))
        view.advance(**learner_step(2, 0.5))
        view.say("checkpoint [step_2]")
    lines = console.file.getvalue().splitlines()
    assert "\x1b" not in console.file.getvalue()
    assert [line.split("] ", 1)[-1].split(" · ")[0] for line in lines] == [
        "expert 0/50",
        "expert 50/50",
        "fine-tune",
        "fine-tune 2/2",
        "reinforce 0/3",
        "reinforce 1/3",
        "reinforce 2/3",
        "checkpoint [step_2]",
    ]
    assert "loss 0.5" in lines[3]
    assert all(text in lines[6] for text in ("reward 0.500", "valid 75%", "12 edited, 4 invalid", "512 tok/s"))


def test_the_file_is_written_seldom_but_ends_up_with_the_last_word(tmp_path, monkeypatch):
    written, write = [], status.write
    monkeypatch.setattr(status, "write", lambda file, s: (written.append(s), write(file, s)))
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    with Progress(tmp_path, log()) as view:
        view.stage("expert", 1000)
        for _ in range(1000):
            view.advance()
        time.sleep(0.5)
        running = status.read(tmp_path / "status.json")
    assert running.stages[-1].done == 1000 and not running.result.ended
    assert len(written) < 30
    assert status.read(tmp_path / "status.json").result == "done"


@pytest.mark.parametrize(
    ("error", "result", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", ""),
        (ValueError("a defect"), "failed", "ValueError: a defect"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (UserError("rl.steps is wrong\nand more"), "failed", "rl.steps is wrong"),
        (RayTaskError("step", "Traceback …", UserError("rank 0 failed")), "failed", "rank 0 failed"),
    ],
    ids=["interrupted", "defect", "exit", "user", "far away"],
)
def test_the_file_tells_how_the_run_ended(tmp_path, error, result, reason):
    console = terminal()
    with pytest.raises(type(error)), Progress(tmp_path, console) as view:
        view.stage("start", 1)
        raise error
    told = status.read(tmp_path / "status.json")
    assert (told.result, told.reason) == (result, reason)
    assert reason in console.file.getvalue()


def test_a_run_is_starting_until_it_is_ready(tmp_path):
    with Progress(tmp_path, log()) as view:
        assert status.read(tmp_path / "status.json").result == "starting"
        view.ready()
        view.stage("reinforce", 1)
        view._write()
        assert status.read(tmp_path / "status.json").result == "running"


def test_a_driver_that_is_gone_without_a_word_has_failed(tmp_path):
    assert status.of(tmp_path) is None
    status.write(tmp_path / "status.json", Status("killed", 0.0, result=State.RUNNING))
    assert (status.of(tmp_path).result, status.of(tmp_path).reason) == ("failed", status.KILLED)
    with (tmp_path / status.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert status.of(tmp_path).result == "running"
    status.write(tmp_path / "status.json", Status("ended", 0.0, result=State.DONE))
    assert status.of(tmp_path).result == "done"


def test_a_clock_that_is_set_back_does_not_keep_the_file_from_being_written(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.02)
    monkeypatch.setattr(progress, "HEARTBEAT", 0.1)
    with Progress(tmp_path, Console(file=io.StringIO())):
        monkeypatch.setattr(time, "time", lambda: 1e9)
        wait_until = time.monotonic() + 5
        while status.read(tmp_path / "status.json").written != 1e9:
            assert time.monotonic() < wait_until
            time.sleep(0.02)


def test_a_terminal_shows_what_is_said_in_whole_words_and_a_log_in_one_line(tmp_path):
    words = [f"actor-{number}" for number in range(10, 50)]
    screen, plain = Console(file=io.StringIO(), width=30, force_terminal=True, color_system=None), log()
    for console in (screen, plain):
        with Progress(tmp_path, console) as shown:
            shown.say(" ".join(words))
    lines = re.findall(r"(?:actor-\d+ ?)+", screen.file.getvalue())
    assert all(len(line.rstrip()) <= 30 for line in lines) and " ".join(lines).split() == words
    assert " ".join(words) in plain.file.getvalue().splitlines()


def test_where_nothing_can_be_shown_a_run_goes_on(tmp_path):
    full = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    with Progress(tmp_path, Console(file=full)) as shown:
        shown.stage("expert", 2)
        shown.say("said")
        shown.show("a table")
    with contextlib.suppress(OSError):
        full.close()
    assert "said" in (tmp_path / "log.txt").read_text() and status.read(tmp_path / "status.json").result == "done"


def test_who_pipes_a_run_into_head_does_not_end_it(tmp_path):
    code = (
        "from learner.run.progress import Progress\n"
        f"with Progress({str(tmp_path)!r}) as shown:\n"
        "    input()\n    shown.say('one')\n    shown.say('two')\nprint('the rest')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.wait(60) == 0 and status.read(tmp_path / "status.json").result == "done"
    assert "two" in (tmp_path / "log.txt").read_text()


def test_a_full_disk_is_said_once_and_ends_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "status.json")

    monkeypatch.setattr(status, "write", full)
    console = log()
    with Progress(tmp_path, console) as view:
        view.stage("start", 1)
    assert console.file.getvalue().count("No space left on device: 'status.json'") == 1


def test_a_whole_journal_row_can_be_shown_by_another_process(tmp_path):
    row = {"reward_mean": 0.5, "loss": 1, "logprob_gap_on_current": True, "grad_norm": None, "task_rewards": {"a": 1.0}}
    with Progress(tmp_path, Console(file=io.StringIO())) as shown:
        shown.stage("reinforce", 2)
        shown.advance(**row)
    assert status.read(tmp_path / "status.json").figures["loss"] == 1


def test_the_curve_on_held_out_tasks_is_shown_with_the_interval_of_its_newest_point(tmp_path):
    figures = {"reward_low": 0.6, "reward_high": 0.8, "valid_rate": 0.9}
    with Progress(tmp_path, log()) as view:
        view.stage("reinforce", 9)
        for step, reward in ((2, 0.5), (4, None), (6, 0.7)):  # of the second no experiment ran
            view.advance(**learner_step(step, 0.4), held_out={"step": step, "reward": reward, **figures})
    of = status.read(tmp_path / "status.json")
    assert of.held_out == (Point(2, 0.5, 0.6, 0.8), Point(6, 0.7, 0.6, 0.8))
    (line,) = [line for line in shown(panel.panel(of, time.time())).splitlines() if "held-out" in line]
    assert "▁█  0.700  0.600 to 0.800, after step 6" in line


def test_a_terminal_gets_a_live_panel_under_the_log(tmp_path):
    console = terminal()
    with Progress(tmp_path, console) as view:
        view.stage("reinforce", 3)
        view.advance(**learner_step(1, 0.4))
        view.say("hello")
    out = console.file.getvalue()
    assert "\x1b[" in out and "hello" in out
    assert "✓" in out and "1/3" in out and "0.400" in out


def test_the_panel_shows_stage_reward_outcomes_actors_and_time_left():
    now = 1000.0
    state = Status(
        run="r",
        started=0.0,
        written=now,
        rewards=(0.3, 0.5),
        valid_rate=0.75,
        outcomes={"edited": 3, "invalid": 1},
        stages=(Stage("start", 0, 3, done=3, ended=20), Stage("reinforce", started=900, total=10, first=4, done=6)),
        actors_alive=1,
        actors_total=2,
        experiments=5,
        messages=("old", "new"),
    )
    text = shown(panel.panel(state, now, messages=1))
    for part in (
        "start",
        "20s",
        "6/10",
        "3m20s left",
        "0.500",
        "75%",
        "other states",
        "3 edited",
        "1/2 up",
        "flight: 5",
    ):
        assert part in text
    assert "new" in text and "old" not in text and "no sign" not in text
    assert "no sign of the driver for 2m00s" in shown(panel.panel(state, now + 120))
    ended = dataclasses.replace(state, result=State.FAILED)
    assert "no sign" not in shown(panel.panel(ended, now + 120))


def test_a_learner_step_says_what_the_learner_waited_for_and_the_next_stage_does_not(tmp_path):
    console = log()
    row = {"seconds": 10.0, "wait_seconds": 6.0, "publish_seconds": 1.0}
    row["waited_for"] = {"admission": 0.0, "generate": 1.0, "queue": 3.0, "execute": 1.0, "grade": 1.0, "other": 0.01}
    with Progress(tmp_path, console) as view:
        view.stage("reinforce", 1)
        view.advance(**learner_step(1, 0.4), **row)
        shown_to_others = shown(panel.panel(status.read(tmp_path / "status.json"), 0.0))
        view.stage("evaluate rl", 1)
    lines = console.file.getvalue().splitlines()
    assert "waits 60%: queue 30%, experiments 20%, sampling 10%; publishes 10%" in lines[1]
    assert "waits" not in lines[2] and "waits" not in shown_to_others


def test_a_follower_ignores_an_earlier_run_and_shows_the_log_above_the_panel(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    status.write(tmp_path / "status.json", Status("earlier run", 0.0))
    console, ended = terminal(), threading.Event()

    def job():
        yield "\x1b[36mfirst\x1b[0m line\n"
        time.sleep(0.4)
        status.write(tmp_path / "status.json", Status("new run", time.time(), written=time.time()))
        time.sleep(0.6)
        yield "last line"
        ended.set()

    follow(tmp_path, ended.is_set, job(), console)
    out = console.file.getvalue()
    assert "waiting for" in out and "new run" in out and "earlier run" not in out
    assert "line" in out and "last line" in out


def test_a_follower_without_a_terminal_prints_the_log_only(tmp_path):
    console = log()
    follow(tmp_path, lambda: True, ["one\n"], console)
    assert console.file.getvalue() == "one\n"
