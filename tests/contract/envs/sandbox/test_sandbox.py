"""Every sandbox backend runs a script as a plain Python would, out of reach of answers, runner and later scripts."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from envs.grading import GradeError, grade
from envs.records import Limits, Task
from envs.sandbox import RunResult, SandboxFailure, SandboxPool, host_view, process
from envs.workspace import restore
from tests.sandbox_task import GVISOR_LATER, execute, runner_of


def test_a_script_reads_its_data_and_its_submission_is_graded(pool: SandboxPool, task: Task) -> None:
    with pool.acquire(task) as sandbox:
        script = """
            import sys, pandas, sklearn
            from pathlib import Path
            assert __name__ == "__main__" and sys.argv == ["train.py"], sys.argv
            assert len(pandas.read_csv("train.csv")) == 200 and Path("data/part.txt").read_text() == "visible"
            Path("submission.csv").write_text("score\\n0.75\\n")
            print("to stdout"); print("to stderr", file=sys.stderr)
        """
        restore(task, {"train.py": textwrap.dedent(script)}, sandbox.workspace)
        result = sandbox.run(["train.py"], task.limits)
        assert (result.status, result.exit_code) == ("ok", 0), result.output
        assert "to stdout" in result.output and "to stderr" in result.output
        assert grade(task, sandbox.workspace)[0] == 0.75


def test_a_crash_shows_the_traceback_of_the_script_only(pool: SandboxPool, task: Task) -> None:
    result = execute(pool, task, "def fit():\n    raise ValueError('bad fit')\nfit()\n")
    assert (result.status, result.exit_code) == ("error", 1)
    lines = result.output.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "ValueError: bad fit"
    assert "train.py" in lines[1] and "runpy" not in result.output
    assert execute(pool, task, "import sys; sys.exit(3)").exit_code == 3
    assert "SyntaxError" in execute(pool, task, "def (:").output


def test_threads_and_exit_handlers_finish_as_in_plain_python(pool: SandboxPool, task: Task) -> None:
    script = """
        import atexit, threading, time
        atexit.register(lambda: print("handler ran"))
        threading.Thread(target=lambda: (time.sleep(0.3), print("thread ended"))).start()
    """
    output = execute(pool, task, script).output
    assert "thread ended" in output and "handler ran" in output


def test_worker_processes_of_a_script_run(pool: SandboxPool, task: Task) -> None:
    script = """
        from joblib import Parallel, delayed
        def square(x):
            return x * x
        if __name__ == "__main__":
            print("sum", sum(Parallel(n_jobs=2)(delayed(square)(i) for i in range(4))))
    """
    result = execute(pool, task, script, Limits(seconds=30, memory_mb=1024, processes=60))
    assert "sum 14" in result.output, result.output


def test_there_is_no_network(pool: SandboxPool, task: Task) -> None:
    script = """
        import socket
        print([name for _, name in socket.if_nameindex() if name != "lo"])
        for host in ("1.1.1.1", "169.254.169.254"):
            try: socket.create_connection((host, 80), 2); print("CONNECTED")
            except OSError: print("refused")
    """
    output = execute(pool, task, script).output
    assert output.splitlines() == ["[]", "refused", "refused"]


def test_answers_home_and_source_data_are_out_of_sight(pool: SandboxPool, task: Task) -> None:
    """`LEAKED_KEY` is in this process's environment when the pool starts its sandboxes."""
    twice = [one.name for one in Path("/").iterdir() if one.is_symlink()]  # of the host, as /lib to /usr/lib
    script = f"""
        import os, importlib.util, sys
        for path in ({str(task.private_dir)!r}, {str(task.env_dir)!r}, {str(Path(__file__).parent)!r},
                     "/var/run/docker.sock", "/etc/shadow", {str(Path.home() / ".cache")!r}):
            try: print("VISIBLE", path, os.listdir(path) if os.path.isdir(path) else open(path).read(10))
            except OSError: pass
        keep = ("proc", "sys", "dev", *{twice!r})
        for top, folders, files in os.walk("/"):
            if top == "/": folders[:] = [f for f in folders if f not in keep]
            if top.endswith("-packages"): folders.clear()  # thousands, and none of a task's
            if "answers-top-secret.csv" in files: print("VISIBLE", top)
        try:
            from sklearn.datasets import load_iris; load_iris(); print("VISIBLE iris")
        except (OSError, ModuleNotFoundError): pass
        for name in ("torch", "ray", "docker", "vllm", "envs"):
            if importlib.util.find_spec(name): print("VISIBLE package", name)
        print(sorted(os.environ)); print([p for p in os.listdir("/proc") if p.isdigit()])
    """
    result = execute(pool, task, script, Limits(seconds=60, memory_mb=600))
    assert "VISIBLE" not in result.output and result.status == "ok", result.output
    assert "LEAKED" not in result.output and len(result.output.splitlines()[-1].split()) == 2


def test_only_the_workspace_and_scratch_can_be_written(pool: SandboxPool, task: Task) -> None:
    script = """
        import os, sys, numpy
        for folder in ("/task", "/", "/usr", "/etc", "/var/tmp", "/run", "/home", sys.prefix,
                       os.path.dirname(numpy.__file__), "/task/data"):
            try: open(folder + "/mark", "w").write("x"); print("WRITTEN", folder)
            except OSError: pass
        for path in ("/task/train.csv", "train.csv"):
            try: open(path, "a").write("x"); print("WRITTEN", path)
            except OSError: pass
        try: os.chmod("/task/train.csv", 0o777); print("WRITTEN mode")
        except OSError: pass
        import subprocess
        for show in ("cat", sys.executable):  # a program that user 0 starts would gain what the bounding set allows
            code = ["/proc/self/status"] if show == "cat" else ["-c", "print(open('/proc/self/status').read())"]
            lines = subprocess.run([show, *code], capture_output=True, text=True).stdout.splitlines()
            caps = [line.split()[1] for line in lines if line.startswith(("CapPrm", "CapEff"))]
            print("uid", os.getuid(), "can do nothing" if {int(mask, 16) for mask in caps} == {0} else lines)
    """
    result = execute(pool, task, script)
    assert result.status == "ok" and "WRITTEN" not in result.output, result.output
    assert result.output.count("can do nothing") == 2 and ("uid 0 " in result.output) == pool.maps_root, result.output


def test_an_experiment_leaves_nothing_to_the_next_one(pool: SandboxPool, task: Task) -> None:
    """Files, processes, shared memory, patched libraries, closed permissions and endless paths."""
    poison = """
        import ctypes, os, subprocess, sys, numpy, pandas, builtins
        numpy.mean = pandas.read_csv = builtins.print = lambda *a, **k: 1 / 0
        sys.modules["sklearn"] = None
        os.environ["LEAK"] = "1"
        for folder in ("/tmp", "/dev/shm", "/workspace"):
            os.makedirs(folder + "/left/over"); open(folder + "/left/file", "w").write("x")
            os.chmod(folder + "/left", 0)
            os.symlink("/task", folder + "/link")
            os.chdir(folder)
            for _ in range(1200):
                os.mkdir("d" * 40); os.chdir("d" * 40)
        ctypes.CDLL(None).shmget(4242, 4096, 0o1666)
        try: os.makedirs("/dev/left/over"); os.unlink("/dev/fd"); open("/dev/fd", "w").write("x")
        except OSError: pass
        os.chdir("/workspace")
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                import time
                while True: open("/workspace/alive", "w").write(str(time.time()))
            os._exit(0)
    """
    check = """
        import ctypes, os, sys, numpy, pandas, sklearn
        assert numpy.mean([1, 3]) == 2 and len(pandas.read_csv("train.csv")) == 200 and "LEAK" not in os.environ
        assert sorted(os.listdir("/workspace")) == ["data", "train.csv", "train.py"], os.listdir("/workspace")
        assert not os.listdir("/tmp") and not os.listdir("/dev/shm") and not os.path.exists("/dev/left")
        assert os.path.islink("/dev/fd")
        assert ctypes.CDLL(None).shmget(4242, 4096, 0o600) == -1, "shared memory survived"
        assert len([p for p in os.listdir("/proc") if p.isdigit()]) <= 2
        print("clean")
    """
    with pool.acquire(task) as sandbox:
        restore(task, {"train.py": textwrap.dedent(poison)}, sandbox.workspace)
        left = sandbox.run(["train.py"], task.limits)
        assert left.status == "ok", left.output
        restore(task, {"train.py": textwrap.dedent(check)}, sandbox.workspace)
        result = sandbox.run(["train.py"], task.limits)
    assert result.output == "clean\n", result.output
    assert (task.env_dir / "train.csv").read_text().startswith("x,y")


LEAVE_SECRETS = """
    import ctypes, mmap, os, time
    secret = "secret-%d-terces" % 1234567890  # what it says nowhere
    libc = ctypes.CDLL(None)
    libc.prctl(15, b"cret-%d" % 1234567890, 0, 0, 0)  # the name of the process
    os.makedirs(f"/workspace/{secret}/{secret}-below/{secret}")
    for number in range(300):
        for folder in ("/workspace", f"/workspace/{secret}/{secret}-below", "/tmp"):
            open(f"{folder}/{secret}-{number}", "w").close()
    os.chmod(f"/workspace/{secret}", 0)
    held = open(f"/workspace/{secret}-0", "w+b"); held.write(bytes(4096)); held.flush()
    shown = mmap.mmap(held.fileno(), 4096); os.unlink(held.name)
    os.mkfifo(f"/workspace/{secret}-pipe")
    for line in range(5000): print(line, secret, flush=True)
    try: os.setxattr("/workspace", "user.left", secret.encode())
    except OSError: pass  # some file systems have none
    os.utime("/workspace", ns=(1234567890, 1234567890)); os.chmod("/workspace", 0o777)
    for folder in ("/tmp", "/dev/shm", "/dev"):
        for change in (lambda: os.setxattr(folder, "user.left", secret.encode()), lambda: os.chmod(folder, 0o710),
                       lambda: os.utime(folder, ns=(1234567890, 1234567890))):
            try: change()
            except OSError: pass  # it is somebody else's
    for key in (0x73656372, 0x65742d31):
        libc.shmget(key, 4096, 0o1666); libc.msgget(key, 0o1666); libc.semget(key, 1, 0o1666)
    libc.mq_open(b"/" + secret.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    for keyring in (-3, -4, -5):  # of the session, the user and the user's sessions
        libc.syscall(248 if os.uname().machine == "x86_64" else 217, b"user", b"left", secret.encode(), 24, keyring)
    for name, (start, end) in pages():  # what it shares with the runner
        if name.startswith("/dev/zero"): ctypes.memmove(start + 100, secret.encode(), 24)
    time.sleep(1.0)  # the runner looks several times
"""
FIND_SECRETS = """
    import ctypes, os, re
    libc = ctypes.CDLL(None)
    for name, (start, end) in pages():
        if name in ("", "[heap]") or name.startswith("/dev/zero"):
            for at in range(start, end, 1 << 20):
                piece = ctypes.string_at(at, min(1 << 20, end - at))
                if found := re.search(rb"cret-12345[6]7890", piece):  # a pattern that does not find itself
                    print("FOUND", name, piece[found.start() - 40:found.end() + 9])
    for folder in ("/workspace", "/tmp", "/dev/shm", "/dev"):
        try: print("FOUND", os.getxattr(folder, "user.left"))
        except OSError: pass
        status = os.stat(folder)
        if 1234567890 in (status.st_atime_ns, status.st_mtime_ns): print("FOUND the times of", folder)
        if status.st_mode & 0o777 == 0o710: print("FOUND the mode of", folder)
    if os.stat("/workspace").st_mode & 0o022: print("FOUND the mode of the folder")
    for key in (0x73656372, 0x65742d31):
        for get in (lambda: libc.shmget(key, 0, 0), lambda: libc.msgget(key, 0), lambda: libc.semget(key, 0, 0)):
            if get() != -1: print("FOUND System V", hex(key))
    if libc.mq_open(b"/secret-%d-terces" % 1234567890, os.O_RDWR) != -1: print("FOUND a queue")
    buffer = ctypes.create_string_buffer(64)
    number = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
    for keyring in (-3, -4, -5):
        key = libc.syscall(number, 10, keyring, b"user", b"left", 0)
        if key > 0 and libc.syscall(number, 11, key, buffer, 64) > 0: print("FOUND a key", buffer.value)
    print("searched")
"""
PAGES = """
def pages():
    for line in open("/proc/self/maps"):
        span, rights, _, _, _, *name = line.split(maxsplit=5)
        if rights.startswith("r"):
            yield "".join(name).strip(), [int(end, 16) for end in span.split("-")]
"""


def test_an_experiment_finds_nothing_that_an_earlier_one_printed_or_left(pool: SandboxPool, task: Task) -> None:
    """What it was told and printed, names that it gave, what lay beside the milestones, what the kernel keeps: all of
    the memory is searched."""
    limits = Limits(seconds=60, memory_mb=600, disk_mb=32, processes=24)
    with pool.acquire(replace(task, limits=limits)) as sandbox:
        assert sandbox.run(["bash", "-c", ": secret-1234567890-terces"], limits).status == "ok"
        for script in (LEAVE_SECRETS, FIND_SECRETS):
            restore(task, {"train.py": PAGES + textwrap.dedent(script)}, sandbox.workspace)
            result = sandbox.run(["train.py"], limits)
            assert result.status == "ok", result.output
    assert result.output == "searched\n", result.output


def test_what_experiments_do_not_need_of_the_kernel_is_refused(pool: SandboxPool, task: Task) -> None:
    script = """
        import ctypes, errno, os, resource, socket
        libc = ctypes.CDLL(None, use_errno=True)
        x86 = os.uname().machine == "x86_64"
        calls = {  # by number: of x86-64, and of ARM's 64 bits
            "unshare": (272, 97, 0x10000000), "setns": (308, 268, 0, 0), "mount": (165, 40, 0, b"/tmp", b"tmpfs", 0, 0),
            "clone into namespaces": (56, 220, 0x10000000 | 17, 0, 0, 0, 0), "io_uring": (425, 425, 1, 0),
            "userfaultfd": (323, 282, 0), "bpf": (321, 280, 0, 0, 0), "perf_event_open": (298, 241, 0, 0, -1, -1, 0),
            "keyctl": (250, 219, 0, -3, 0), "add_key": (248, 217, b"user", b"a", b"b", 1, -4),
            "request_key": (249, 218, b"user", b"a", 0, -4), "mq_open": (240, 180, b"/a", 0o102, 0o600, 0),
        }
        for name, (here, arm, *arguments) in calls.items():
            found = libc.syscall(here if x86 else arm, *arguments)
            if found == 0 and name.startswith("clone"): os._exit(0)  # the child
            if found != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS): print("DONE", name, found)
        for family, protocol in ((socket.AF_VSOCK, 0), (socket.AF_NETLINK, 9), (socket.AF_PACKET, 0), (38, 0)):
            try: socket.socket(family, socket.SOCK_SEQPACKET if family == 38 else socket.SOCK_RAW, protocol)
            except OSError as error: print("NOT BY THE FILTER", family, error) if error.errno != errno.EPERM else None
            else: print("DONE socket", family)
        try: resource.prlimit(1, resource.RLIMIT_STACK, (1 << 20, 1 << 20)); print("DONE the runner's limits")
        except OSError: pass
        a, b = socket.socketpair(); a.send(b"sockets of Unix"); print(b.recv(20).decode())
    """
    assert execute(pool, task, script).output == "sockets of Unix\n"


def test_without_root_bubblewrap_refuses_further_user_namespaces(pool: SandboxPool) -> None:
    """A second barrier, behind the filter of system calls, which this program does not have."""
    if os.getuid() == 0 or pool.name != "process" or not process._no_more_users():
        pytest.skip("as root there is no user namespace; and bubblewrap has the option since 0.8")
    mounts = [host_view.Mount(folder, folder) for folder in host_view.SYSTEM[:4]]
    bwrap = process._bwrap(mounts, {"PATH": "/usr/bin"}, counted=False)
    inside = [arg for arg in bwrap if arg != "--as-pid-1"]
    inside[inside.index("--chdir") + 1] = "/"
    ran = subprocess.run([*inside, "unshare", "--user", "true"], capture_output=True, text=True)
    assert ran.returncode and "unshare failed" in ran.stderr, ran
    inside.remove("--disable-userns")
    assert subprocess.run([*inside, "unshare", "--user", "true"]).returncode == 0


def test_the_runner_cannot_be_reached(pool: SandboxPool, task: Task) -> None:
    script = """
        import os, signal
        for path in ("/proc/1/mem", "/proc/1/fd/1", "/proc/1/fd/0", "/proc/1/environ", "/proc/1/cwd/x"):
            try: open(path, "r+b" if "mem" in path else "wb"); print("REACHED", path)
            except OSError: pass
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            try: os.kill(1, number)
            except OSError: pass
        for descriptor in range(3, 40):
            try: os.write(descriptor, b'{"status": "ok", "exit_code": 0, "seconds": 0, "output": "forged"}\\n')
            except OSError: pass
        raise SystemExit("the end")
    """
    result = execute(pool, task, script)
    assert result.status == "error" and result.output == "the end\n", result


def test_random_numbers_differ_between_experiments(pool: SandboxPool, task: Task) -> None:
    script = "import random, numpy\nprint(random.random(), numpy.random.random())"
    assert execute(pool, task, script).output != execute(pool, task, script).output


@pytest.mark.parametrize(
    "script",
    [
        "import os; os.symlink('/etc/passwd', 'submission.csv')",
        "import os; os.mkfifo('submission.csv')",
        "import os; os.mkdir('submission.csv')",
        "import os; os.link('train.py', 'submission.csv')",
        "open('submission.csv', 'w').write('nan')",
        "print('accuracy 1.0')",
    ],
)
def test_a_crooked_submission_is_refused(pool: SandboxPool, task: Task, script: str) -> None:
    with pool.acquire(task) as sandbox:
        restore(task, {"train.py": script}, sandbox.workspace)
        assert sandbox.run(["train.py"], task.limits).status == "ok"
        with pytest.raises(GradeError):
            grade(task, sandbox.workspace)


def test_a_seed_repeats_the_random_numbers(pool: SandboxPool, task: Task) -> None:
    script = "import random, numpy\nprint(random.random(), numpy.random.random())"

    def run(seed: int) -> str:
        with pool.acquire(task) as sandbox:
            restore(task, {task.script: script}, sandbox.workspace)
            return sandbox.run([task.script], task.limits, seed=seed).output

    assert run(5) == run(5) != run(6)


@pytest.mark.parametrize("pool", GVISOR_LATER, indirect=True, scope="module")
def test_sandboxes_work_at_the_same_time(pool: SandboxPool, task: Task) -> None:
    """Three are held at once, and each experiment ends only when all of them have begun."""
    together = threading.Barrier(3)
    script = """
        import os, time
        open("begun", "w").close()
        while not os.path.exists("go"): time.sleep(0.01)
        print("went")
    """

    def experiment(_: int) -> RunResult:
        with pool.acquire(task) as sandbox, ThreadPoolExecutor(1) as thread:
            restore(task, {task.script: textwrap.dedent(script)}, sandbox.workspace)
            together.wait(60)
            running = thread.submit(sandbox.run, [task.script], Limits(seconds=60, memory_mb=300))
            while not (sandbox.workspace / "begun").exists() and not running.done():
                time.sleep(0.01)
            together.wait(60)
            (sandbox.workspace / "go").touch()
            return running.result()

    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(experiment, range(3)))
    assert [(result.status, result.output) for result in results] == [("ok", "went\n")] * 3


def test_nothing_outlives_a_host_that_is_killed(
    pool: SandboxPool, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of an experiment: its host dies by SIGKILL, and the experiment stops writing."""
    host = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[4])!r})
        from pathlib import Path
        from envs.sandbox import SandboxPool
        from envs.workspace import restore
        from tests.sandbox_task import make_task
        task = make_task(Path({str(tmp_path / "task")!r}))
        with SandboxPool({pool.name!r}).acquire(task) as sandbox:
            restore(task, {{"train.py": "while True: open('alive', 'a').write('x')"}}, sandbox.workspace)
            print(sandbox.workspace, flush=True)
            sandbox.run(["train.py"], task.limits)
    """
    command = [sys.executable, "-c", textwrap.dedent(host)]
    scratch = {**os.environ, "TMPDIR": str(tmp_path)}  # a killed host leaves its workspace there
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=scratch) as process:
        alive = Path(process.stdout.readline().strip()) / "alive"
        end = time.monotonic() + 60
        while not (alive.exists() and alive.stat().st_size) and time.monotonic() < end:
            time.sleep(0.05)
        process.kill()
    sizes, end = [0, alive.stat().st_size], time.monotonic() + 15  # half of the time that the experiment has
    while sizes[-1] != sizes[-2] and time.monotonic() < end:
        time.sleep(1)
        sizes.append(alive.stat().st_size)
    assert sizes[-1] == sizes[-2] > 0, "it writes on"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    in_use = tmp_path / "mlagent-slot-living"
    in_use.mkdir()
    with (in_use / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        SandboxPool(pool.name).close()
        assert not alive.parent.parent.exists() and in_use.exists(), "the next pool clears up after the dead only"
    slot = alive.parent.parent.name
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{slot}")) and not Path("/sys/fs/cgroup", slot).exists()


def test_a_broken_sandbox_is_a_failure_and_is_replaced(pool: SandboxPool, task: Task) -> None:
    with pytest.raises(SandboxFailure, match="ended"), pool.acquire(task) as sandbox:
        restore(task, {"train.py": "import time; time.sleep(5)"}, sandbox.workspace)
        threading.Timer(0.5, lambda: os.kill(runner_of(sandbox.workspace), 9)).start()
        sandbox.run(["train.py"], task.limits)
    assert execute(pool, task, "print('fine')").output == "fine\n"


def test_a_warm_step_costs_less_than_a_python_start(pool: SandboxPool, task: Task) -> None:
    script = """
        import pandas
        from sklearn.ensemble import RandomForestClassifier
        data = pandas.read_csv("train.csv")
        print(RandomForestClassifier(20).fit(data[["x"]], data["y"]).score(data[["x"]], data["y"]))
    """
    execute(pool, task, script)
    times = []
    for _ in range(5):
        started = time.monotonic()
        assert execute(pool, task, script).status == "ok"
        times.append(time.monotonic() - started)
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=task.env_dir, check=True, capture_output=True)
    bare = time.monotonic() - started
    print(f"\n{pool.name}: warm step {sorted(times)[2]:.3f} s (best {min(times):.3f} s), bare python {bare:.3f} s")
    assert sorted(times)[2] < bare


def test_what_a_plain_script_needs_has_been_set_up(pool: SandboxPool, task: Task) -> None:
    """Nothing is left to import, nor does the runner have threads, of which a fork would have none."""
    script = """
        import sys, pandas
        from sklearn.naive_bayes import GaussianNB
        before = set(sys.modules)
        table = pandas.read_csv("train.csv")
        model = GaussianNB().fit(table[["x"]], table["y"])
        pandas.DataFrame({"y": model.predict(table[["x"]])}).to_csv("submission.csv", index=False)
        print(sorted(set(sys.modules) - before), *(line for line in open("/proc/1/status") if line[:7] == "Threads"))
    """
    assert execute(pool, task, script).output.split() == ["[]", "Threads:", "1"]
