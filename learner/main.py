"""Train a language model to improve ML scripts: `python learner/main.py key=value …` (`--help` lists every key).

The whole algorithm is `train` below. Actors and learner work at the same time: while this loop trains on one batch,
the actors sample and run the experiments of the next (learner/stream/stream.py bounds how far they may run ahead).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from envs.errors import FAILURES
from learner.config.load import ConfigError, load
from learner.config.schema import Config

if TYPE_CHECKING:
    from learner.training import Training

DRY_RUN = "--dry-run"


def train(run: Training) -> None:
    """Exploration-enriched fine-tuning, then step-wise RL (arXiv 2505.23723), evaluated before, between and after."""
    if not run.resumed:
        examples = run.explore()  # the expert's good actions; the states it passed through become the state pool
        run.evaluate("base")
        run.finetune(examples)
        run.checkpoint()  # before anything else can end the run
        run.publish()
    run.evaluate("sft")

    for groups in run.batches():  # K actions of each drawn state, executed and rewarded; oldest first
        report = run.learn(groups)  # clipped policy gradient on group-normalised advantages
        run.publish()  # actors go on under the new weights; requests in flight are kept
        run.record(groups, report)

    run.evaluate("rl")


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 failed, 2 refused before anything was started, 130 interrupted."""
    if not arguments:
        return fail(ConfigError("say what is to be trained, such as config=quickstart; --help lists every key"), 2)
    try:
        cfg: Config = load([argument for argument in arguments if argument != DRY_RUN], say=print)

        from learner.run import beforehand  # pandas and more, kept out of --help

        beforehand.require(cfg, beforehand.here(cfg), dry=DRY_RUN in arguments)
    except ConfigError as error:
        return fail(error, 2)
    except KeyboardInterrupt:
        return 130

    try:
        if DRY_RUN in arguments:
            from learner import dry_run

            print("\n\n".join(dry_run.told(cfg)))
            return 0

        from learner.training import begun  # heavy imports, kept out of --help

        with begun(cfg) as run:
            train(run)
    except FAILURES as error:
        return fail(error, 2 if isinstance(error, ConfigError) else 1)  # a task that cannot be had is refused, too
    except KeyboardInterrupt as interrupt:
        both = interrupt.__context__, interrupt  # the second came while what the first had ended was ending
        said = [note for one in both for note in getattr(one, "__notes__", ())]
        print(": ".join(["interrupted", *said]), file=sys.stderr)
        return 130
    return 0


def fail(error: Exception, code: int) -> int:
    reason = getattr(error, "cause", error)  # Ray wraps what a remote call raised
    for line in (f"error: {reason}", *getattr(error, "__notes__", ())):
        print(line, file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
