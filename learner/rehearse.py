"""Rehearses a run before it costs anything: `python learner/rehearse.py config=ml-agent-7b [key=value …]`.

The same configuration runs from end to end in minutes, with a tiny random model of the same architecture, small data
under the names of tasks that are not here and experiments that nobody runs; on one card where there is one, else on the
CPU. Its evaluation is left out, as nothing in it would be true.
"""

from __future__ import annotations

import sys
from pathlib import Path

from envs.errors import FAILURES
from learner.config.load import ConfigError, load
from learner.config.usage import KEYS, answered
from learner.main import fail
from learner.main import main as train

USAGE = f"""usage: python learner/rehearse.py [config=NAME|PATH] [key=value ...]

Runs what a run with these arguments would, with a tiny random model, small data and recorded experiments in the place
of the real ones; its folder is RUN-rehearsal beside the run's. Exit code: 0 it ran from end to end, 1 it failed,
2 the configuration is refused, 130 interrupted.

  python learner/rehearse.py config=ml-agent-7b
  python learner/rehearse.py size=7b gpus=8 rl.preset=dapo

{KEYS}
"""


def main(arguments: list[str]) -> int:
    """Exit code: 0 it ran from end to end, 1 it failed, 2 the configuration is refused, 130 interrupted."""
    if (code := answered(arguments, USAGE)) is not None:
        return code
    try:
        cfg = load(arguments, say=print)

        import yaml

        from learner.run import cards, rehearsal  # heavy imports, kept out of --help

        folder = (Path(cfg.run.dir) / f"{cfg.run.name}-stand-ins").resolve()
        keys, said = rehearsal.cut(cfg, folder, on_card=bool(cards.read()))
        print("\n".join(said))
        file = folder / "rehearsal.yaml"
        file.write_text(yaml.safe_dump(rehearsal.settings(cfg, keys), sort_keys=False))
    except FAILURES as error:
        return fail(error, 2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        return 130
    if not (code := train([f"config={file}"])):
        print(f"rehearsed: {keys['run.name']} ran from end to end; {folder} and its run may be deleted")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
