"""What a Docker Engine must say of itself before experiments run on it."""

from __future__ import annotations

import pytest

from envs.sandbox import SandboxFailure
from envs.sandbox.docker import require_limits

ROOTFUL = {
    "MemoryLimit": True, "SwapLimit": False, "PidsLimit": True, "CpuCfsQuota": True, "CgroupVersion": "1",
    "CgroupDriver": "cgroupfs", "SecurityOptions": ["name=seccomp,profile=default"],
}  # fmt: skip
ROOTLESS_V1 = {
    "MemoryLimit": False, "SwapLimit": False, "PidsLimit": False, "CpuCfsQuota": False, "CgroupVersion": "1",
    "CgroupDriver": "none", "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
}  # fmt: skip


def test_an_engine_that_enforces_limits_is_taken() -> None:
    require_limits(ROOTFUL)
    require_limits({**ROOTFUL, "CgroupVersion": "2", "CgroupDriver": "systemd", "SecurityOptions": ["name=rootless"]})


def test_a_rootless_engine_without_cgroup_v2_is_refused_and_told_what_to_do() -> None:
    with pytest.raises(
        SandboxFailure, match=r"memory, processes, CPU time \(cgroup v1, driver none\).*delegated.*gvisor"
    ):
        require_limits(ROOTLESS_V1)


@pytest.mark.parametrize(
    ("field", "named"), [("MemoryLimit", "memory"), ("PidsLimit", "processes"), ("CpuCfsQuota", "CPU time")]
)
def test_each_limit_is_required(field: str, named: str) -> None:
    """As where only some controllers are delegated; an engine too old to say is refused as well."""
    for info in ({**ROOTFUL, field: False}, {name: value for name, value in ROOTFUL.items() if name != field}):
        with pytest.raises(SandboxFailure, match=f"does not limit {named} "):
            require_limits(info)
