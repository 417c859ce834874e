"""Runs inside a sandbox as PID 1: a preloaded Python that forks itself for each experiment. Standard library only.

The host sends one JSON line per experiment and gets one JSON line back. Since the heavy imports are already done,
an experiment costs a fork. Invariants:
* an experiment cannot reach the runner: PID 1 of a PID namespace cannot be signalled from inside, and it is not
  dumpable, so its memory and descriptors are closed to processes of the same user;
* when a reply is sent, no process of the experiment is left, no System V object, and /tmp and /dev/shm are empty;
* output is kept to its head and tail, whatever its size; when the host goes away, the runner ends.
"""

import atexit
import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import random
import resource
import runpy
import select
import signal
import sys
import threading
import time
import traceback

PRELOADED = (
    "numpy", "pandas", "scipy.stats", "sklearn.linear_model", "sklearn.ensemble", "sklearn.svm", "sklearn.neighbors",
    "sklearn.tree", "sklearn.naive_bayes", "sklearn.discriminant_analysis", "sklearn.neural_network",
    "sklearn.gaussian_process", "sklearn.kernel_ridge", "sklearn.preprocessing", "sklearn.pipeline",
    "sklearn.compose", "sklearn.decomposition", "sklearn.feature_selection", "sklearn.impute",
    "sklearn.model_selection", "sklearn.metrics", "sklearn.multioutput", "sklearn.cross_decomposition",
)  # fmt: skip
HEAD_BYTES, TAIL_BYTES = 4_000, 12_000
SCRATCH = ("/tmp", "/dev/shm")
EXIT_MEMORY = 87
PR_SET_DUMPABLE = 4
LIBC = ctypes.CDLL(None)


def main() -> None:
    if os.getpid() != 1:
        sys.exit("the sandbox runner must be PID 1 of a PID namespace: it ends whatever else runs beside it")
    setup = json.loads(sys.stdin.readline())
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # an image may come without one
            importlib.import_module(name)
    if os.getuid() == 0 and setup["uid"] != 0:
        os.setgroups([])
        os.setgid(setup["uid"])
        os.setuid(setup["uid"])
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    gc.freeze()
    reply({"ready": True})
    for line in sys.stdin:
        reply(run(json.loads(line), setup["contained"]))
    os._exit(0)


def reply(message: dict) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def run(request: dict, contained: bool) -> dict:
    """Run one experiment and return its status (`ok`, `error`, `timeout` or `out_of_memory`), time and output.

    `contained`: a container already limits the memory and the processes of the experiment as a whole.
    """
    reader, writer = os.pipe()
    kills = out_of_memory_kills()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        experiment(request, contained, writer)
    os.close(writer)
    output = Output()
    exit_status, peak = watch(child, reader, started + request["seconds"], output)
    end_all_others()
    output.drain(reader)
    os.close(reader)
    seconds = time.monotonic() - started
    for folder in SCRATCH:
        wipe(folder)
    remove_ipc()
    if exit_status is None:
        status, code = "timeout", None
    else:
        code = os.waitstatus_to_exitcode(exit_status)
        # Where the kernel's count cannot be read, nobody but its out-of-memory killer sends SIGKILL.
        killed = code == -signal.SIGKILL if kills is None else out_of_memory_kills() > kills
        status = "ok" if code == 0 else "out_of_memory" if code == EXIT_MEMORY or killed else "error"
    beyond = max(0, peak - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024
    return {"status": status, "exit_code": code, "seconds": seconds, "output": output.text(), "peak_mb": beyond}


def watch(child: int, reader: int, deadline: float, output: "Output") -> "tuple[int | None, int]":
    """Collect output until the child ends; its wait status, None if it ran past the deadline, and its peak KiB."""
    ended = os.pidfd_open(child)
    sources = [reader, ended, sys.stdin.fileno()]
    try:
        while (left := deadline - time.monotonic()) > 0:
            ready = select.select(sources, [], [], left)[0]
            if sys.stdin.fileno() in ready:  # the host sends nothing during an experiment: it has gone away
                os._exit(0)
            if reader in ready and not output.read(reader):
                sources.remove(reader)
            if ended in ready:
                _, status, usage = os.wait4(child, 0)
                return status, usage.ru_maxrss
        return None, 0
    finally:
        os.close(ended)


def end_all_others() -> None:
    """Kill and reap every other process of this PID namespace, however fast it forks."""
    while True:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def wipe(folder: "str | os.PathLike[str]") -> None:
    """Delete what is in a folder, whatever its depth and permissions, without following links.

    Folders are moved up as they are met, so that neither recursion nor the length of a path has a limit to hit.
    """
    moved = 0
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)  # to move a folder takes write permission on it
                    while os.path.lexists(target := os.path.join(folder, f"moved-{moved}")):
                        moved += 1
                    os.rename(inner.path, target)
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)


def remove_ipc() -> None:
    """Remove System V shared memory, queues and semaphores, which outlive the processes that made them."""
    for kind, remove in (("shm", LIBC.shmctl), ("msg", LIBC.msgctl), ("sem", lambda id, *_: LIBC.semctl(id, 0, 0))):
        with open(f"/proc/sysvipc/{kind}") as lines:
            for line in list(lines)[1:]:
                remove(int(line.split()[1]), 0, None)


def out_of_memory_kills() -> "int | None":
    """The kernel's count of out-of-memory kills in this cgroup; None where it cannot be read."""
    for file in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError), open(file) as lines:
            counts = dict(line.split() for line in lines)
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return None


class Output:
    """The head and the tail of a stream of any length."""

    def __init__(self) -> None:
        self.head, self.tail, self.dropped = b"", b"", 0

    def read(self, descriptor: int) -> bool:
        """Take what is there; False at the end of the stream."""
        data = os.read(descriptor, 65536)
        room = HEAD_BYTES - len(self.head)
        self.head += data[:room]
        kept = self.tail + data[room:]
        self.tail = kept[-TAIL_BYTES:]
        self.dropped += len(kept) - len(self.tail)
        return bool(data)

    def drain(self, descriptor: int) -> None:
        while select.select([descriptor], [], [], 0)[0] and self.read(descriptor):
            pass

    def text(self) -> str:
        gap = f"\n[… {self.dropped} bytes left out …]\n".encode() if self.dropped else b""
        return (self.head + gap + self.tail).decode(errors="replace")


def experiment(request: dict, contained: bool, writer: int) -> None:
    """In the forked child: become the script. Never returns."""
    code = 1
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (writer, 1), (writer, 2)):
            os.dup2(source, target)
        os.closerange(3, 1024)
        LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # its own /proc entry is closed to a process that is not dumpable
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")  # a full container loses the experiment, not the runner
        limit(request, contained)
        os.environ.update(request["env"])
        os.chdir("/workspace")
        seed_random_numbers(request["seed"])
        sys.argv = list(request["argv"])
        sys.path.insert(0, "/workspace")
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        code = run_script(request["argv"][0])
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run_script(script: str) -> int:
    """Run it as `python script` would; the exit code, `EXIT_MEMORY` where memory ran out."""
    code = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            code = (stop.code or 0) & 0xFF
        else:
            print(stop.code, file=sys.stderr)
            code = 1
    except BaseException as error:
        frames = error.__traceback__
        while frames and frames.tb_frame.f_code.co_filename != script:
            frames = frames.tb_next
        traceback.print_exception(type(error), error, frames)
        no_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
        code = EXIT_MEMORY if no_memory else 1
    threading._shutdown()  # waits for the script's threads, as the interpreter does before it ends
    atexit._run_exitfuncs()
    gc.collect()  # closes, and so writes out, files that the script left open
    return code


def limit(request: dict, contained: bool) -> None:
    """Limit this process, and so each one that it starts. Shared mappings count in the address space only."""
    with open("/proc/self/statm") as statm:
        used = [int(field) * resource.getpagesize() for field in statm.read().split()]
    memory = request["memory_mb"] << 20
    limits = [
        (resource.RLIMIT_DATA, used[5] + memory),
        (resource.RLIMIT_FSIZE, request["disk_mb"] << 20),
        (resource.RLIMIT_NOFILE, 512),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ]
    if not contained:
        limits += [(resource.RLIMIT_AS, used[0] + 2 * memory), (resource.RLIMIT_NPROC, request["processes"])]
    for kind, most in limits:
        resource.setrlimit(kind, (most, most))


def seed_random_numbers(seed: "int | None") -> None:
    """Forks of one runner would otherwise all draw the same numbers."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)


if __name__ == "__main__":
    main()
