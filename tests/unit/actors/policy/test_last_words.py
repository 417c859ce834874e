"""Why an engine did not start, out of what its processes wrote."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from actors.policy.last_words import LastWords

FAILURE = """
(EngineCore pid=77) ERROR 11-27 05:40:58 [core.py:936] EngineCore failed to start.
(EngineCore pid=77) ERROR 11-27 05:40:58 [core.py:936] Traceback (most recent call last):
(EngineCore pid=77) ERROR 11-27 05:40:58 [core.py:936]   File "worker.py", line 3, in start
(EngineCore pid=77) ERROR 11-27 05:40:58 [core.py:936] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def told(text: str, capfd) -> LastWords:
    words = LastWords()
    with words.heard():
        child = subprocess.Popen([sys.executable, "-c", f"import sys; sys.stderr.write({text!r})"])
    child.wait()
    end = time.monotonic() + 10
    while text.strip() and len(words._lines) < text.count("\n") and time.monotonic() < end:
        time.sleep(0.01)
    assert capfd.readouterr().err == text, "it is passed on"
    return words


def test_the_cause_is_the_engine_s_own_exception_not_that_there_was_one(capfd):
    assert told(FAILURE, capfd).cause() == "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB"


def test_of_several_exceptions_the_last_is_the_cause(capfd):
    text = f"ImportError: no faster kernel, going on\n{FAILURE}"
    assert told(text, capfd).cause() == "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB"


def test_without_an_exception_there_is_no_cause(capfd):
    assert told("(EngineCore pid=77) WARNING 11-27 05:40:58 [cpu.py:1] slow: no tcmalloc\n", capfd).cause() == ""


def test_what_this_process_writes_later_goes_where_it_went(capfd):
    told("one\n", capfd)
    print("after", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "after\n"


def test_engines_that_start_at_the_same_time_in_one_process_have_their_own_last_words(capfd):
    words, begun = [LastWords() for _ in range(8)], threading.Barrier(8)

    def start(number: int) -> None:
        begun.wait()
        with words[number].heard():
            subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.stderr.write('ValueError: of {number}\\n')"])

    with ThreadPoolExecutor(8) as starting:
        list(starting.map(start, range(8)))
    end = time.monotonic() + 10
    while not all(one.cause() for one in words) and time.monotonic() < end:
        time.sleep(0.01)
    assert [one.cause() for one in words] == [f"ValueError: of {number}" for number in range(8)]
    assert sorted(capfd.readouterr().err.splitlines()) == sorted(one.cause() for one in words)
