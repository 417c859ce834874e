"""Let an expert explore the held-in tasks: `python learner/experts.py key=value …` (`--help` lists every key).

Writes `trajectories.parquet` and `ideas.json` to the run's folder. `learner/main.py experts.path=FOLDER` begins with
them; without it, main.py runs this stage itself. No policy is served here, only the expert's model if it is one of our
own (`experts.kind=llm` without `experts.endpoint`).
"""

from __future__ import annotations

import sys

from envs.errors import FAILURES
from learner.config.load import ConfigError, load
from learner.config.midway import again
from learner.config.usage import KEYS, answered

USAGE = f"""usage: python learner/experts.py [config=NAME|PATH] [key=value ...]

Lets an expert explore the held-in tasks (tasks.held_in), and writes trajectories.parquet and ideas.json to the run's
folder (run.dir, run.name). What it does is said by the keys of `experts`; those of `sft` and `rl` are not used.

  python learner/experts.py config=quickstart run.name=expert
  python learner/main.py config=quickstart experts.path=runs/expert      begins with what it left
  python learner/experts.py run.resume=true run.name=expert              goes on where it was interrupted

{KEYS}
"""


def main(arguments: list[str]) -> int:
    """Exit code as of learner/main.py."""
    if (code := answered(arguments, USAGE)) is not None:
        return code
    try:
        cfg = load(arguments, say=print)

        from learner.run import beforehand  # pandas and more, kept out of --help

        beforehand.require(cfg, beforehand.here(cfg), [] if beforehand.serves_expert(cfg) else None)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130

    try:
        from learner.recipe.exploration import run  # heavy imports, kept out of --help

        run(cfg)
    except FAILURES as error:
        print(f"error: {getattr(error, 'cause', error)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1  # a task that cannot be had is refused, too
    except KeyboardInterrupt:
        print(f"interrupted: {again(cfg)} goes on with it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
