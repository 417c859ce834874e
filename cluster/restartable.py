"""`python -m cluster.restartable key=value …`: learner/main.py for a job that is started again when it is lost.

The first start begins the run; every later one with the same run.dir and run.name resumes it, once it has come to run:
one that could not start is begun again, so that its settings can be mended.
"""

from __future__ import annotations

import sys
from pathlib import Path

from learner.config import dial
from learner.config.load import RECORD, ConfigError, load
from learner.config.usage import KEYS, answered
from learner.main import fail, main

LEFT = ("about.json", "checkpoints")
"""What there is of a run, either of which, once it has come to run."""
USAGE = f"""usage: python -m cluster.restartable [config=NAME|PATH] [key=value ...]

learner/main.py for a job that is started again when it is lost, as KubeRay does: the first start begins the run of
run.dir and run.name, every later one goes on from its last checkpoint, with the configuration that it recorded.

  ray job submit --entrypoint-num-cpus 1 -- python -m cluster.restartable config=/etc/mlagent/run.yaml

{KEYS}
"""


def with_resume(arguments: list[str]) -> list[str]:
    """The arguments, with `run.resume=true` where the run that they name has come to run, and then without `size` and
    `gpus`: what these chose is recorded.

    Raises:
        ConfigError: the arguments cannot be used.
    """
    run = load(arguments).run
    folder = Path(run.dir) / run.name
    ran = (folder / RECORD).exists() and any((folder / name).exists() for name in LEFT)
    if not ran:
        return arguments
    return [*(one for one in arguments if one.partition("=")[0] not in dial.KEYS), "run.resume=true"]


def start(arguments: list[str]) -> int:
    """Exit code as of learner/main.py."""
    if (code := answered(arguments, USAGE)) is not None:
        return code
    try:
        return main(with_resume(arguments))
    except ConfigError as error:
        return fail(error, 2)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
