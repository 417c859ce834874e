"""What ends `make train`, and what does not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import quickstart
from learner.run import beforehand


class Job:
    """Whose log has ended, as where the connection was lost, while it goes on."""

    stopped = False

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def log_ended(self) -> bool:
        return True

    def stop(self) -> None:
        self.stopped = True

    def exit_code(self) -> int:
        if not self.stopped:
            raise KeyboardInterrupt
        return 130


def test_ctrl_c_stops_a_job_whose_log_has_ended_before_it(tmp_path: Path) -> None:
    assert quickstart.attend(job := Job(), tmp_path) == 130 and job.stopped


def test_under_nohup_a_terminal_that_is_closed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(beforehand, "require", lambda *_: None)
    monkeypatch.setattr(quickstart, "cluster", begun)
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert quickstart.main(["config=smoke"]) == 130
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
