"""Where there is no control group, as for an ordinary user in a pod, an experiment's memory is bounded all the same:
all its processes, files in memory and buffers of the kernel together; and a script that keeps to its limit goes on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import replace

import pytest

from envs.records import Limits, Task
from envs.sandbox import SandboxFailure, SandboxPool, cgroup, packages
from envs.sandbox.gvisor import KERNEL_MB
from envs.workspace import restore
from tests.sandbox_task import execute

LIMITS = Limits(seconds=60, memory_mb=300, disk_mb=900, processes=24)
HEAD = """
import ctypes, mmap, os, socket, time
log = os.open("taken", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
def took(mb): os.write(log, b"." * mb)
def in_processes(number, work):
    for _ in range(number):
        if os.fork() == 0: work(); time.sleep(20); os._exit(0)
    for _ in range(number): os.wait()
"""
HOARDERS = {
    "files in memory": """
        for _ in range(80): os.write(os.memfd_create("x"), bytes(16 << 20)); took(16)
    """,
    "processes": """
        def work():
            kept = []
            for _ in range(26): kept.append(bytearray(8 << 20)); took(8)
        in_processes(6, work)
    """,
    "pages that forks shared": """
        kept = bytearray(250 << 20); took(250)
        def work():
            time.sleep(0.3)  # by then it has been seen that they share them
            for start in range(0, len(kept), 1 << 20):
                for page in range(start, start + (1 << 20), 4096): kept[page] = 1
                took(1)
        in_processes(4, work)
    """,
    "files without a name": """
        kept = []
        for number in range(60):
            kept.append(open(f"{('/tmp', '/dev/shm')[number % 2]}/file", "wb")); os.unlink(kept[-1].name)
            kept[-1].write(bytes(20 << 20)); took(20)
    """,
    "shared memory that is hardly mapped": """
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        for _ in range(130):
            at = libc.mmap(None, 10 << 20, 3, 0x21, -1, 0)
            if at == 2**64 - 1: raise PermissionError(1, "Operation not permitted")
            ctypes.memset(at, 1, 10 << 20); libc.munmap(at + 4096, (10 << 20) - 4096); took(10)
    """,
    "System V objects": """
        libc = ctypes.CDLL(None)
        libc.shmat.restype, libc.shmdt.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        for _ in range(130):
            if (shared := libc.shmget(0, 10 << 20, 0o1600)) < 0: raise PermissionError(1, "Operation not permitted")
            at = libc.shmat(shared, None, 0)
            ctypes.memset(at, 1, 10 << 20); libc.shmdt(at); took(10)
    """,
    "sockets": """
        kept = []  # for as long as the process lives
        def work():
            try:
                while True:
                    kept.append(socket.socketpair()); kept[-1][0].setblocking(False); free = 1 << 20
                    kept[-1][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                    try:
                        while True: kept[-1][0].send(bytes(1 << 16))
                    except BlockingIOError: pass
            except OSError: pass
        in_processes(12, work)
        raise SystemExit("all of them were filled")
    """,
}
IN_GVISOR = ("files in memory", "processes", "sockets")
"""There one number is looked at, whatever it is made of."""


@pytest.fixture(scope="module", params=["process", pytest.param("gvisor", marks=pytest.mark.long)])
def bare(request: pytest.FixtureRequest) -> Iterator[SandboxPool]:
    """Sandboxes of a host that allows no control group."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cgroup, "make", lambda *_, **__: None)
        try:
            opened = SandboxPool(request.param)
        except SandboxFailure as reason:
            pytest.skip(f"NOT TESTED, the {request.param} sandbox is not to be had: {reason}")
        yield opened
        opened.close()


@pytest.mark.parametrize("name", HOARDERS)
def test_memory_is_bounded_wherever_it_lies(bare: SandboxPool, task: Task, name: str) -> None:
    """What the kernel refuses is bounded too. gVisor's own kernel has room of its own, as in a control group."""
    if bare.name == "gvisor" and name not in IN_GVISOR:
        pytest.skip("in gVisor all of it is one number")
    script = HEAD + textwrap.dedent(HOARDERS[name])
    with bare.acquire(replace(task, limits=LIMITS)) as sandbox:
        restore(task, {task.script: script}, sandbox.workspace)
        result = sandbox.run([task.script], LIMITS)
        log = sandbox.workspace / "taken"
        taken = log.stat().st_size if log.exists() else 0
    refused = "Operation not permitted" in result.output and taken == 0
    assert result.status == "out_of_memory" or refused, (taken, result)
    beyond = packages.RUNNER_MB["base"] + (KERNEL_MB if bare.name == "gvisor" else 0)
    assert taken <= LIMITS.memory_mb + beyond, taken
    assert execute(bare, task, "print('fine')").output == "fine\n"


def test_what_processes_share_counts_once(bare: SandboxPool, task: Task) -> None:
    """Forks share most of what they show; a program that is being started borrows all of it for a moment."""
    script = """
        import multiprocessing, subprocess, time
        import numpy
        from joblib import Parallel, delayed

        data = numpy.ones(200 << 17)  # 200 MiB
        def total(number):
            own = numpy.full(20 << 17, number, "f8")
            time.sleep(0.3)
            return data.sum() + own[0]
        with multiprocessing.get_context("fork").Pool(4) as workers:
            assert len(set(workers.map(total, range(8), chunksize=1))) == 8
        for _ in range(20): subprocess.run(["true"], check=True)
        assert Parallel(n_jobs=2)(delayed(abs)(-number) for number in range(4)) == [0, 1, 2, 3]
        multiprocessing.Array("d", 100)[:] = range(100)
        print("well")
    """
    result = execute(bare, task, script, Limits(seconds=60, memory_mb=500, processes=24))
    assert (result.status, result.output) == ("ok", "well\n"), result
