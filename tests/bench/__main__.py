"""Every bench, one after the other, after a line on machine and versions: `make bench`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

BENCHES = (
    "stream",
    "async_gain",
    "waiting",
    "learner",
    "larger",
    "checkpoints",
    "weights",
    "env_step",
    "env_scale",
    "against_trl",
)
PACKAGES = ("ray", "torch", "deepspeed", "transformers")


def main() -> int:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    print(f"{os.cpu_count()} CPUs, {platform.platform()}, Python {platform.python_version()}, {versions}", flush=True)
    failed = []
    for name in BENCHES:
        print(f"\n{name}", flush=True)
        if subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py")), *sys.argv[1:]]).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all benches ran")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
