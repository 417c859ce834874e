"""Runs inside a sandbox as PID 1: a preloaded Python that forks itself for each experiment. Standard library only.

The host sends two JSON lines per experiment, its limits and all of it, and gets a reply (`output`) back. Since the
heavy imports are already done, an experiment costs a fork, which is made before it is asked for. Invariants:
* an experiment cannot reach the runner: PID 1 of a PID namespace cannot be signalled from inside, and it is not
  dumpable, so its memory and descriptors are closed to processes of the same user; where the kernel guards PID 1 less
  (gVisor), the runner is another user;
* when a reply is sent, no process of the experiment is left, no System V object, and /tmp and /dev/shm are empty;
* what an experiment writes and starts is bounded, also where the kernel under it does not count;
* nothing that an experiment is told, prints, names or ends with enters the runner's heap, of which the next one gets a
  copy: the runner has it in pages of its own (`output`, `unforked`), and where something is left, a fork cleans up;
* when the host goes away, the runner ends.
"""

import atexit
import contextlib
import ctypes
import errno
import gc
import json
import os
import random
import resource
import runpy
import select
import shutil
import signal
import sys
import threading
import time
import traceback
import types
import typing

SCRATCH, WORKSPACE, LOGS = ("/tmp", "/dev/shm"), "/workspace", "/logs"
SHELL = "bash"
"""In the place of a script: the program that is run, with its arguments."""
NEAR_LIMIT = 0.8
LOOK_SECONDS = (0.2, 1.0)
"""Least and most between looks at what an experiment has written and started; in between, a look takes
`LOOK_SHARE` of the time."""
LOOK_SHARE = 0.04
PR_SET_DUMPABLE = 4
LIBC = ctypes.CDLL(None)
NAMES = (
    "unforked", "disk", "fixed", "lookups", "memory", "milestones", "output", "preload", "privileges", "seccomp",
    "sysv",
)  # fmt: skip
unforked, disk, fixed, lookups, memory, milestones, output, preload, privileges, seccomp, sysv = modules = tuple(
    map(types.ModuleType, NAMES)
)
"""The modules of these names, each after what it imports; their sources come with the first line from the host."""
folders: "list[fixed.Fixed]" = []
"""/dev, /tmp and /dev/shm."""


def main() -> None:
    if os.getpid() != 1:
        sys.exit("the sandbox runner must be PID 1 of a PID namespace: it ends whatever else runs beside it")
    setup = json.loads(sys.stdin.readline())
    load(setup["modules"])
    preload.preload()
    if setup["guarded"]:
        privileges.stand_guard()
    else:
        privileges.become(setup["uid"])
    seccomp.install(setup["guarded"], setup["counted"])
    milestones.watch_fits()
    ended = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ended[1], warn_on_full_buffer=False)
    gc.freeze()
    preload.collapse()
    # Where experiments can write, nothing is yet.
    setup["shell"] = os.path.abspath(shutil.which(SHELL) or f"/bin/{SHELL}")
    folders.extend(map(fixed.Fixed, ("/dev", *SCRATCH)))
    spare = Spare(setup)
    reply({"ready": True})
    while message := unforked.message(sys.stdin.fileno()):
        limits, order = message
        run(json.loads(bytes(limits)), order, setup, spare, ended[0])
        spare = Spare(setup)
    os._exit(0)


def load(sources: "dict[str, str]") -> None:
    """Run the modules; one finds another where the host's package has it, which experiments do not see."""
    package = types.ModuleType("sandbox")
    there = {"envs": types.ModuleType("envs"), "envs.sandbox": package}
    sys.modules.update(there)
    for module in modules:
        exec(compile(sources[module.__name__], module.__name__, "exec"), module.__dict__)
        setattr(package, module.__name__, module)
    for name in there:
        del sys.modules[name]


def reply(message: dict) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Spare:
    """A fork that waits to become an experiment. No experiment runs while there is one, so none can reach it."""

    def __init__(self, setup: dict) -> None:
        self.output, writer = os.pipe()
        order, self._order = os.pipe()
        milestones.renew()
        LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # an experiment has to show its files, however late it gets to run
        self.pid = os.fork()
        if self.pid == 0:
            experiment(order, setup, writer)
        LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        os.close(order)
        os.close(writer)

    def start(self, order: memoryview) -> None:
        while order:
            order = order[os.write(self._order, order) :]
        os.close(self._order)


def run(request: dict, order: memoryview, setup: dict, spare: Spare, ended: int) -> None:
    """Run one experiment in the spare process, and tell the host; `ended` can be read when a child has ended.

    request: its limits; order: all that it is told, which holds until it has started.
    """
    child, reader, printed = spare.pid, spare.output, output.Output()
    kills = out_of_memory_kills()
    resident = resident_kb(child)
    started = time.monotonic()
    spare.start(order)
    weighed = memory.Watch(request["memory_mb"] << 20, request["processes"], SCRATCH) if setup["counted"] else None
    stopped = watch(child, reader, ended, started + request["seconds"], request, printed, weighed)
    exit_status, peak_kb = end_all(child)
    printed.drain(reader)
    os.close(reader)
    seconds, peak_mb = time.monotonic() - started, max(0, peak_kb - resident) / 1024
    if not stopped and over_disk(request):
        stopped = "disk_full"
    if has_left_something():
        aside(clean_up)
    code = None if stopped else os.waitstatus_to_exitcode(exit_status)
    # What a script says of itself counts for nothing, nor what it reserves: memory was out if the kernel says so, or
    # much of it was in use.
    near = peak_mb > NEAR_LIMIT * request["memory_mb"]
    killed = code == -signal.SIGKILL and near if kills is None else out_of_memory_kills() > kills
    ran_out = killed or (code == 1 and near and milestones.refused_memory())
    by_itself = "ok" if code == 0 else "out_of_memory" if ran_out else "error"
    output.REPLY.pack_into(
        unforked.view, 0, output.STATUSES.index(stopped or by_itself), output.NO_CODE if code is None else code,
        seconds, peak_mb, milestones.reached(), printed.head, printed.tail, printed.dropped,
    )  # fmt: skip
    os.write(sys.stdout.fileno(), unforked.view[: output.REPLY.size])
    printed.send(sys.stdout.fileno())
    printed.close()
    if not all([folder.settle() for folder in folders]):
        os._exit(1)  # another sandbox takes this one's place


def has_left_something() -> bool:
    """Whether an experiment has left what it must not, but for files in the workspace."""
    if any(unforked.holds(folder) for folder in SCRATCH) or any(folder.changed() for folder in folders):
        return True
    return sysv.left() or any(disk.has_special(folder) for folder in written())


def aside(work: "typing.Callable[[], None]") -> None:
    """Do it in a fork, whose memory no experiment gets."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        os._exit(1)


def clean_up() -> None:
    """Delete what an experiment has left but for files in the workspace; names are read."""
    for folder in SCRATCH:
        disk.wipe(folder)
    for owned in folders:
        if owned.changed():
            owned.restore()
    for folder in written():
        disk.remove_special(folder)
    sysv.remove()


def resident_kb(process: int) -> int:
    """KiB of memory that it has now."""
    with open(f"/proc/{process}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() >> 10


def watch(
    child: int,
    reader: int,
    ended: int,
    deadline: float,
    request: dict,
    printed: "output.Output",
    weighed: "memory.Watch | None",
) -> str:
    """Collect output until the child ends; why it has to be stopped before (`timeout`, …), else an empty string.

    At the deadline all is killed at once, in the middle of a look too: with many busy processes one takes seconds.
    """
    rang: list[int] = []

    def ring(number: int, _: object) -> None:
        rang.append(number)
        kill_all()

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(1e-3, deadline - time.monotonic()))
    try:
        return watch_until(deadline, child, reader, ended, request, printed, weighed) or ("timeout" if rang else "")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the next experiment is forked from here


def watch_until(
    deadline: float,
    child: int,
    reader: int,
    ended: int,
    request: dict,
    printed: "output.Output",
    weighed: "memory.Watch | None",
) -> str:
    """As `watch`, but for the alarm."""
    sources = [reader, ended, sys.stdin.fileno()]
    next_look = time.monotonic() + LOOK_SECONDS[0]
    weigh = weighed.look if weighed else lambda: None
    while (now := time.monotonic()) < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return ""
        try:
            weigh()
            full = now >= next_look and over_disk(request, weigh)
        except memory.Over:
            printed.add(f"\nstopped: it has more than {request['memory_mb']} MiB of memory\n".encode())
            return "out_of_memory"
        if full:
            return "disk_full"
        if now >= next_look:
            if disk.hiding():
                printed.add(b"\nstopped: a process does not show what files it has open\n")
                return "error"
            if over_processes(request, printed):
                return "error"
            least, most = LOOK_SECONDS
            next_look = time.monotonic() + min(most, max(least, (time.monotonic() - now) / LOOK_SHARE))
        until = min(deadline, next_look, weighed.due if weighed else deadline)
        ready = select.select(sources, [], [], max(0.0, until - time.monotonic()))[0]
        if sys.stdin.fileno() in ready:  # the host sends nothing during an experiment: it has gone away
            os._exit(0)
        if reader in ready and not printed.read(reader):
            sources.remove(reader)
        if ended in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(ended, 65536)
    return "timeout"


def written() -> "list[str]":
    """The folders whose content the host gets."""
    return [WORKSPACE, LOGS] if verifies() else [WORKSPACE]


def verifies() -> bool:
    """Whether a task's tests run here: only these have logs."""
    return os.path.ismount(LOGS)


def over_disk(request: dict, between: "typing.Callable[[], None]" = lambda: None) -> bool:
    return any(disk.over(folder, request["disk_mb"] << 20, between) for folder in written())


def over_processes(request: dict, printed: "output.Output") -> bool:
    """Whether there are more processes than allowed: a last resort where nothing else counts them."""
    count = sum(name.isdigit() for name in os.listdir("/proc")) - 1
    if count <= request["processes"] + 1:
        return False
    printed.add(f"\nstopped: {count} processes, and at most {request['processes']} are allowed\n".encode())
    return True


def kill_all() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def end_all(child: int) -> "tuple[int, int]":
    """Kill and reap every other process of this PID namespace, however fast it forks.

    Returns the child's wait status and the largest process's peak memory in KiB.
    """
    child_status, peak = 0, 0
    if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):  # before it is killed with the others
        _, child_status, usage = os.wait4(child, 0)
        peak = usage.ru_maxrss
    while True:
        kill_all()
        try:
            while (found := os.wait4(-1, os.WNOHANG))[0]:
                peak = max(peak, found[2].ru_maxrss)
        except ChildProcessError:
            return child_status, peak
        time.sleep(0.001)


def out_of_memory_kills() -> "int | None":
    """The kernel's count of out-of-memory kills in this cgroup; None where it cannot be read."""
    for file in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError), open(file) as lines:
            counts = dict(line.split() for line in lines)
            if "oom_kill" in counts:
                return int(counts["oom_kill"])
    return None


def experiment(order: int, setup: dict, writer: int) -> None:
    """In the forked child: wait for the request, and become the script. Never returns."""
    code = 1
    try:
        os.setsid()
        if setup["counted"]:
            seccomp.keep_countable()
        for source, target in ((order, 0), (writer, 1), (writer, 2)):
            os.dup2(source, target)
        os.closerange(3, 1024)
        with open(0, closefd=False) as orders:
            request = json.load(orders)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")  # a full container loses the experiment, not the runner
        limit(request, setup["contained"], setup["gpus"])
        privileges.become(setup["uid"])
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.update(request["env"])
        os.chdir(WORKSPACE)
        if verifies():
            lookups.distrust(WORKSPACE, setup["workdir"])
        seed_random_numbers(request["seed"])
        sys.argv = list(request["argv"])
        sys.path[:0] = dict.fromkeys([os.path.dirname(os.path.join(WORKSPACE, request["argv"][0])), WORKSPACE])
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        if request["argv"][0] == SHELL:
            os.execv(setup["shell"], request["argv"])
        milestones.watch_files(setup["task"], request["argv"][0])
        code = run_script(request["argv"][0])
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run_script(script: str) -> int:
    """Run it as `python script` would; the exit code."""
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
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            milestones.refuse_memory()
        code = 1
    threading._shutdown()  # waits for the script's threads, as the interpreter does before it ends
    atexit._run_exitfuncs()
    gc.collect()  # closes, and so writes out, files that the script left open
    return code


def limit(request: dict, contained: bool, gpus: bool) -> None:
    """Limit this process, and so each one that it starts. Shared mappings count in the address space only, of which
    CUDA reserves far more than it uses."""
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
        limits.append((resource.RLIMIT_NPROC, request["processes"]))
        if not gpus:
            limits.append((resource.RLIMIT_AS, used[0] + 2 * memory))
    for kind, wanted in limits:
        hard = resource.getrlimit(kind)[1]  # a sandbox may come with lower ones
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except ValueError:
            if kind not in (resource.RLIMIT_CORE, resource.RLIMIT_MSGQUEUE):  # gVisor has neither
                raise


def seed_random_numbers(seed: "int | None") -> None:
    """Forks of one runner would otherwise all draw the same numbers."""
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.seed() if seed is None else torch.manual_seed(seed)


if __name__ == "__main__":
    main()
