"""Runs inside a sandbox, beside the runner: how far an experiment gets, seen by hooks, not by what it prints.

`page` is memory that the runner shares with the experiment it forks: a byte per milestone. A script could write it as
well, since hooks live in its own process; so milestones are worth partial credit for scripts that fail, never a score.
Invariant: each experiment has a page of its own, new when it is forked. Standard library only.
"""

import contextlib
import mmap
import os
import sys

NAMES = ("data_opened", "model_fitted", "predictions_written")
SUBMISSION = "submission.csv"
page = mmap.mmap(-1, mmap.PAGESIZE)


def reached() -> int:
    """A bit for each of `NAMES`."""
    return sum(bool(page[number]) << number for number in range(len(NAMES)))


def renew() -> None:
    """Have a page that no experiment has seen, whatever an earlier one wrote between and behind the milestones."""
    global page
    page.close()
    page = mmap.mmap(-1, mmap.PAGESIZE)


def mark(name: str) -> None:
    page[NAMES.index(name)] = 1


def refuse_memory() -> None:
    """Behind the milestones stands whether the script ended for want of memory, by what it says itself."""
    page[len(NAMES)] = 1


def refused_memory() -> bool:
    return bool(page[len(NAMES)])


def watch_fits() -> None:
    """In the runner, once: notice every `fit` of scikit-learn, and every optimizer step of PyTorch, that succeeds.

    scikit-learn runs the body of each `fit` inside this one context manager (`sklearn.base._fit_context`), so no
    class needs to be wrapped and no frame is added to the tracebacks that the policy reads.
    """
    if (base := sys.modules.get("sklearn.base")) and hasattr(base, "config_context"):
        plain = base.config_context

        @contextlib.contextmanager
        def noticing(**settings: object):
            with plain(**settings):
                yield
            mark("model_fitted")

        base.config_context = noticing
    if optimizer := sys.modules.get("torch.optim.optimizer"):
        optimizer.register_optimizer_step_post_hook(lambda *_: mark("model_fitted"))


def watch_files(task: str, script: str) -> None:
    """In the experiment, before the script: notice which files it opens; there is no way to take the hook off again."""
    script = os.path.realpath(script)

    def hook(event: str, arguments: tuple) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes):
            return
        with contextlib.suppress(OSError, ValueError):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            writing = (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            if os.path.basename(path) == SUBMISSION and writing:
                mark("predictions_written")
            elif path.startswith(f"{task}/") and path != script:
                mark("data_opened")

    sys.addaudithook(hook)
