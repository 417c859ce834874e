"""`make prove`: run what docs/results.md tells of, then print its tables and draw its plots.

`python -m tests.prove [RUNS]` with the folder of all runs (`runs`). Interrupted, it goes on where it was.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from tests.prove import results
from tests.prove.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]


def main(runs: Path) -> int:
    """Exit code: that of the stage that failed."""
    for stage in STAGES:
        done = runs / stage.name / "proved"
        if done.exists():
            continue
        command, began = [sys.executable, *stage.arguments(runs)], time.monotonic()
        print(f"\n{stage.name}: {stage.about}\n{shlex.join(command[1:])}", flush=True)
        if code := subprocess.run(command, cwd=ROOT).returncode:
            print(f"{stage.name} failed; make prove goes on there", file=sys.stderr)
            return code
        done.write_text(f"{time.monotonic() - began:.0f} seconds in its last process\n")
    print(results.markdown(runs))
    for plot in results.draw(runs, ROOT / "docs/results"):
        print(f"plot {plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs").resolve()))
