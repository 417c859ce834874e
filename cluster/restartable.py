"""`python -m cluster.restartable key=value …`: learner/main.py for a job that is started again when it is lost.

The first start begins the run; every later one with the same run.dir and run.name resumes it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from learner.config.load import ConfigError, load
from learner.main import fail, main


def with_resume(arguments: list[str]) -> list[str]:
    """The arguments, with `run.resume=true` where the run that they name has begun.

    Raises:
        ConfigError: the arguments cannot be used.
    """
    run = load(arguments).run
    begun = (Path(run.dir) / run.name / "config.yaml").exists()
    return [*arguments, "run.resume=true"] if begun else arguments


if __name__ == "__main__":
    try:
        arguments = with_resume(sys.argv[1:])
    except ConfigError as error:
        sys.exit(fail(error, 2))
    sys.exit(main(arguments))
