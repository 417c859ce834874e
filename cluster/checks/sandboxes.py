"""Whether a sandbox backend keeps its promises on the node where this is called: limits, no network, the packages.

Invariants: what is tried is what an adversarial script would do; a promise counts as kept only if the script was seen
to be stopped; the host's own port that a script tries to reach is open while it tries.
"""

from __future__ import annotations

import ast
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from envs.records import Direction, Limits, Task
from envs.sandbox import RunResult, SandboxPool, install
from envs.workspace import restore
from learner.run.preflight import Finding, Verdict

BACKENDS = ("docker", "gvisor", "process")
LIMITS = Limits(seconds=10, memory_mb=300, disk_mb=32, processes=24)
METADATA_SERVICE = ("the metadata service", "169.254.169.254", 80)
SCRIPT = "train.py"

TOO_MUCH_MEMORY = "kept = []\nwhile True: kept.append(bytearray(16 << 20))"
HOARDED_MB = 1536
"""What the others ask for; gVisor's own kernel has room of some hundred MiB beside the experiment."""
HOARD = "hoarded it all"
HOARDERS = {
    "several processes": """
import os, time
for _ in range(6):
    if os.fork() == 0:
        kept = [bytearray(16 << 20) for _ in range({mb} // 6 // 16)]
        time.sleep(2); os._exit(0)
if not any([os.wait()[1] for _ in range(6)]): print({hoard!r})
""",
    "files in memory": """
import os
kept = [os.memfd_create("x") for _ in range({mb} // 16)]
for file in kept: os.write(file, bytes(16 << 20))
print({hoard!r})
""",
    "shared memory": """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype, number = ctypes.c_void_p, ctypes.c_size_t
libc.mmap.argtypes, libc.munmap.argtypes = [number, number, *[ctypes.c_int] * 3, ctypes.c_long], [number, number]
for _ in range({mb} // 16):
    at = libc.mmap(0, 16 << 20, 3, 0x21, -1, 0)
    if at == 2**64 - 1: break
    ctypes.memset(at, 1, 16 << 20)
    libc.munmap(at + 4096, (16 << 20) - 4096)  # the pages stay
else: print({hoard!r})
""",
}
"""By what takes it, in scripts that keep each process below the limit."""
BUSY = """
import os, time
end = (began := time.time()) + 1
for _ in range(3):
    if os.fork() == 0:
        while time.time() < end: pass
        os._exit(0)
for _ in range(3): os.wait()
used = os.times()
print((used.children_user + used.children_system) / (time.time() - began))
"""
FREE_CORES = 1.4
"""So many cores used, where one is allowed, are more than a limit lets by."""
TOO_LONG = "while True: pass"
TOO_LARGE = "open('big', 'wb').write(bytes(64 << 20))"
TOO_MANY = """
import os, time
for _ in range(200):
    try:
        if os.fork() == 0: time.sleep(60)
    except OSError: break
else:
    print("200 processes")
"""
CONNECTIONS = """
import socket
for name, host, port in {targets!r}:
    try:
        socket.create_connection((host, port), 2).close()
        print(name)
    except OSError: pass
"""
MISSING = """
import importlib.util
for name in {names!r}:
    if importlib.util.find_spec(name) is None: print(name)
"""


@dataclass(frozen=True)
class Found:
    """What experiments find, as the keys of these names say."""

    image: str = ""
    packages: str = "base"
    requirements: str = ""


@dataclass(frozen=True)
class Installation:
    """Of a list of packages."""

    place: str
    packages: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """What a backend was found to be."""

    seconds: float
    """Until the first script had run in a new sandbox."""
    broken: tuple[str, ...]
    """Promises that it does not keep."""
    missing: tuple[str, ...]
    """Packages that tasks import and that it lacks."""
    unbounded: tuple[str, ...] = ()
    """What it does not promise to bound, and was seen not to."""


def imports(task: Task) -> set[str]:
    """Packages outside the standard library that the task's script imports, by their top-level names."""
    findings: set[str] = set()
    for node in ast.walk(ast.parse((task.env_dir / task.script).read_text())):
        if isinstance(node, ast.Import):
            findings |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            findings.add(node.module.partition(".")[0])
    beside = {path.stem for path in task.env_dir.iterdir()}
    return findings - set(sys.stdlib_module_names) - beside


def examine(backend: str, of: Found, needed: Sequence[str], targets: Sequence[tuple[str, str, int]]) -> Trial:
    """Start a sandbox and try to break out of its limits.

    needed: packages that tasks import; targets: (what, host, port) that no script may reach.

    Raises:
        SandboxFailure: it does not start here.
    """
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("", 0)) as port_of_host:
        task = _task(Path(folder))
        here = [("a port of its host", host, port_of_host.getsockname()[1]) for host in ("127.0.0.1", _address())]
        pool = SandboxPool(backend, of.image, 1, of.packages, requirements=of.requirements)
        try:
            began = time.monotonic()
            _run(pool, task, "print('ready')", LIMITS)
            seconds = time.monotonic() - began
            reached = _run(pool, task, CONNECTIONS.format(targets=[*here, METADATA_SERVICE, *targets]), LIMITS)
            missing = _run(pool, task, MISSING.format(names=list(needed)), LIMITS)
            broken = (*_limits(pool, task), *_reached(reached))
            return Trial(seconds, broken, tuple(missing.output.split()), _unbounded(pool, task))
        finally:
            pool.close()


def installation(listed: str) -> Installation:
    """Install the packages of that list, where they are not there.

    Raises:
        SandboxFailure: they cannot be had.
    """
    began = time.monotonic()
    found = install(listed)
    return Installation(str(found.folder), found.count, time.monotonic() - began)


def _limits(pool: SandboxPool, task: Task) -> list[str]:
    """Limits that do not hold."""
    broken = []
    if _run(pool, task, TOO_MUCH_MEMORY, LIMITS).status != "out_of_memory":
        broken.append(f"memory: a script took more than {LIMITS.memory_mb} MiB")
    for what, script in HOARDERS.items():
        if HOARD in _run(pool, task, script.format(mb=HOARDED_MB, hoard=HOARD), LIMITS).output:
            broken.append(f"memory: {what} took {HOARDED_MB} MiB where {LIMITS.memory_mb} MiB are allowed")
    if _run(pool, task, TOO_LONG, Limits(seconds=1, memory_mb=300)).status != "timeout":
        broken.append("time: a script ran for more than a second")
    large = _run(pool, task, TOO_LARGE, LIMITS)
    if large.status != "disk_full" and "OSError" not in large.output:
        broken.append(f"disk: a script wrote more than {LIMITS.disk_mb} MiB")
    if "200 processes" in _run(pool, task, TOO_MANY, LIMITS).output:
        broken.append(f"processes: a script started more than {LIMITS.processes}")
    return broken


def _unbounded(pool: SandboxPool, task: Task) -> tuple[str, ...]:
    run = _run(pool, task, BUSY, LIMITS)
    cores = float(run.output) if run.status == "ok" else 0.0
    return (f"CPU time: {cores:.1f} cores were used where {LIMITS.cpus:.0f} is allowed",) if cores > FREE_CORES else ()


def _reached(run: RunResult) -> list[str]:
    if run.status != "ok":
        return [f"network: the script that tried it ended as {run.status}: {run.output[-200:]}"]
    return [f"network: a script reached {what}" for what in run.output.splitlines()]


def _run(pool: SandboxPool, task: Task, script: str, limits: Limits) -> RunResult:
    with pool.acquire(task) as sandbox:
        restore(task, {SCRIPT: script}, sandbox.workspace)
        return sandbox.run([SCRIPT], limits)


def _task(folder: Path) -> Task:
    folder.chmod(0o755)  # the sandbox's user reads it
    (folder / "env").mkdir()
    (folder / "env" / SCRIPT).write_text("")
    (folder / "scripts").mkdir()
    return Task(
        "doctor", "", folder / "env", folder / "scripts", SCRIPT, frozenset(), "", Direction.MAXIMIZE, "held_in",
        LIMITS, None,
    )  # fmt: skip


def _address() -> str:
    """This host's address towards others; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:  # no route to anywhere
            return "127.0.0.1"
        return probe.getsockname()[0]


def judge_installation(listed: str, found: Installation | str) -> Finding:
    """The finding of one node; a text is why the packages cannot be had."""
    if isinstance(found, str):
        return Finding("packages", Verdict.FAILED, found, "sandbox.requirements names a list of them")
    said = f"{found.packages} packages of {listed} in {found.place}"
    return Finding(
        "packages", Verdict.OK, f"{said}; {'installed' if found.seconds > 1 else 'found'} in {found.seconds:.1f} s"
    )


def judge(trials: Mapping[str, Trial | str], chosen: str, tasks: Mapping[str, set[str]]) -> list[Finding]:
    """The findings of one node.

    trials: by backend, the first to be chosen first; a text is why it does not start. chosen: `sandbox.backend`.
    tasks: what each imports.
    """
    findings = []
    for backend, trial in trials.items():
        check = f"sandbox {backend}"
        if isinstance(trial, str):
            needed = chosen == backend or all(isinstance(one, str) for one in trials.values())
            fix = "install it, or choose another sandbox.backend" if needed else ""
            verdict = Verdict.FAILED if needed else Verdict.NOTE
            findings.append(Finding(check, verdict, f"does not start: {trial}", fix))
        elif trial.broken:
            fix = "choose another sandbox.backend: policies write what this one lets through"
            findings.append(Finding(check, Verdict.FAILED, "; ".join(trial.broken), fix))
        else:
            held = "limits of memory, time, disk and processes hold, no network, no port of the host or of Ray"
            free = f"; not bounded without a control group: {'; '.join(trial.unbounded)}" if trial.unbounded else ""
            findings.append(Finding(check, Verdict.OK, f"a new one takes {trial.seconds:.1f} s; {held}{free}"))
    used = next(((name, trial) for name, trial in trials.items() if isinstance(trial, Trial)), None)
    return [*findings, _imports(*used, tasks)] if used else findings


def _imports(backend: str, trial: Trial, tasks: Mapping[str, set[str]]) -> Finding:
    """Whether the sandbox that a run would use has what its tasks import."""
    lacking = {name: sorted(of & set(trial.missing)) for name, of in tasks.items() if of & set(trial.missing)}
    if lacking:
        which = ", ".join(f"{name} imports {', '.join(of)}" for name, of in lacking.items())
        fix = "sandbox.packages=torch has PyTorch; sandbox.requirements=FILE installs what a file lists"
        return Finding("imports", Verdict.FAILED, f"{which}: not in the {backend} sandbox", fix)
    every = ", ".join(sorted(set().union(*tasks.values())))
    return Finding("imports", Verdict.OK, f"{every or 'nothing'}: what tasks import is in the {backend} sandbox")
