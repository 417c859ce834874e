"""Follow a run in a browser: `python learner/watch.py RUN` (`mlagent watch RUN`), on this machine, until Ctrl-C.

Invariant: it reads the run's folder alone, so it may begin before the run does, outlive it, and be ended at any time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from envs.errors import FAILURES


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, 1 where there is no such run or the port is taken."""
    parser = argparse.ArgumentParser(
        prog="python learner/watch.py",
        description="Serve a page that follows a run: what it does now, its plots, and what the agent tried.",
    )
    parser.add_argument("run", type=Path, help="a run's folder, as runs/quickstart")
    parser.add_argument("--port", type=int, default=0, help="of this machine; without it a free one is taken")
    options = parser.parse_args(arguments)

    from learner.reporting.live import Live  # matplotlib and more, kept out of --help
    from learner.reporting.serving import Server

    try:
        with Server(Live(options.run), options.port) as server:
            print(f"{server.address}\nCtrl-C ends the page; the run goes on", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        return 0
    except OverflowError:
        parser.error(f"--port {options.port} is none: 1 to 65535")
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
