"""Write the report of a run, or the comparison of several: `python learner/report.py RUN [RUN …]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from envs.errors import FAILURES
from learner.config.load import ConfigError, load
from learner.reporting.report import write_comparison, write_report


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python learner/report.py",
        description="Write the report of a run, or the comparison of several.",
        usage="%(prog)s RUN [RUN ...] [--output FILE] [report.KEY=VALUE ...]",
    )
    parser.add_argument("run", nargs="+", help="a run's folder, as runs/quickstart; report.KEY=VALUE sets a price")
    parser.add_argument("--output", type=Path, help="by default RUN/report.html, or compare.html beside the first run")
    options = parser.parse_intermixed_args(arguments)
    settings = [argument for argument in options.run if argument.startswith("report.")]
    runs = [Path(argument) for argument in options.run if argument not in settings]
    if not runs:
        parser.error("name the folder of a run, as runs/quickstart")
    try:
        given = load(settings)
        prices = {name: given.report[name] for name in (argument.split("=")[0].split(".")[1] for argument in settings)}
        if len(runs) == 1:
            print(write_report(runs[0], options.output, prices))
        else:
            print(write_comparison(runs, options.output, prices))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
