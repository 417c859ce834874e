"""Every sandbox backend keeps the same promises; the scripts here are what an adversarial policy might write."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from envs.grading import GradeError, grade
from envs.records import Limits, Task
from envs.sandbox import RunResult, SandboxFailure, SandboxPool
from envs.workspace import restore
from tests.sandbox_task import execute, make_task


@pytest.fixture(scope="module", params=["process", "docker", "gvisor"])
def pool(request: pytest.FixtureRequest):
    os.environ["LEAKED_KEY"] = "secret"
    try:
        opened = SandboxPool(request.param, warm=2)
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the {request.param} sandbox is not to be had: {reason}")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return make_task(tmp_path_factory.mktemp("task"))


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
        assert grade(task, sandbox.workspace) == 0.75


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


@pytest.mark.parametrize(
    "script",
    [
        "import time\ntime.sleep(60)",
        "import signal\nfor n in (15, 2, 1): signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        "import os\nif os.fork() == 0:\n    os.setsid()\nwhile True: pass",
    ],
)
def test_a_script_that_does_not_end_is_stopped(pool: SandboxPool, task: Task, script: str) -> None:
    execute(pool, task, "pass")  # a sandbox has started
    started = time.monotonic()
    result = execute(pool, task, script, Limits(seconds=1, memory_mb=300))
    assert result.status == "timeout" and time.monotonic() - started < 4


@pytest.mark.parametrize(
    "script",
    [
        "kept = []\nwhile True: kept.append(bytearray(10 << 20))",
        "import numpy\nkept = numpy.ones((1 << 30,))",
        "import mmap\nkept = mmap.mmap(-1, 4 << 30)\nfor i in range(0, 4 << 30, 4096): kept[i] = 1",
    ],
)
def test_a_memory_bomb_is_out_of_memory(pool: SandboxPool, task: Task, script: str) -> None:
    limits = Limits(seconds=60, memory_mb=300)  # a kernel that looks for memory to reclaim may take its time
    result = execute(pool, task, script, limits)
    assert result.status == "out_of_memory", result
    assert execute(pool, task, "print('fine')").output == "fine\n"


def test_memory_that_an_experiment_had_is_there_for_the_next(pool: SandboxPool, task: Task) -> None:
    if os.getuid() != 0 or pool.name == "docker":
        pytest.skip("the Docker Engine, or nobody, limits the sandbox as a whole")
    limits = Limits(seconds=20, memory_mb=400)
    with pool.acquire(replace(task, limits=limits)) as sandbox:
        (sandbox.workspace / "bomb.py").write_text("kept = []\nwhile True: kept.append(bytearray(10 << 20))")
        assert sandbox.run(["bomb.py"], limits).status == "out_of_memory"
        assert sandbox._channel._group.room() >= limits.memory_mb << 20 or not sandbox.usable


def test_a_fork_bomb_ends_with_its_experiment(pool: SandboxPool, task: Task) -> None:
    script = "import os\nfor _ in range(10_000):\n    try: os.fork()\n    except OSError: pass\n"
    started = time.monotonic()
    execute(pool, task, script, Limits(seconds=2, memory_mb=300, processes=24))
    assert time.monotonic() - started < 10
    assert execute(pool, task, "print('fine')").output == "fine\n"


def test_too_many_processes_are_refused(pool: SandboxPool, task: Task) -> None:
    script = """
        import os, time
        count = 0
        try:
            while count < 200:
                if os.fork() == 0: time.sleep(60)
                count += 1
        except OSError: pass
        print("started", count)
    """
    limits = Limits(seconds=8, memory_mb=1500, processes=24)  # the kernel of gVisor needs memory for each of them
    started = int(execute(pool, task, script, limits).output.split()[-1])
    assert 10 <= started <= limits.processes


def test_endless_output_keeps_its_head_and_tail(pool: SandboxPool, task: Task) -> None:
    script = "print('the head')\nfor i in range(400_000): print('x' * 50)\nprint('the tail')"
    result = execute(pool, task, script)
    assert result.status == "ok" and len(result.output) < 50_000
    assert result.output.startswith("the head") and result.output.endswith("the tail\n")


def test_a_big_file_is_refused(pool: SandboxPool, task: Task) -> None:
    for folder in ("/workspace", "/tmp", "/dev/shm"):
        script = f"open('{folder}/big', 'wb').write(bytes(64 << 20))"
        result = execute(pool, task, script)
        assert result.status == "disk_full" or "OSError" in result.output, (folder, result)


WRITERS = {
    "files": """
        open(f"file-{n}", "wb").write(bytes(1 << 20))
    """,
    "folders": """
        os.makedirs(f"{n}/{n}"); open(f"{n}/{n}/file", "wb").write(bytes(1 << 20))
    """,
    "unlinked": """
        kept.append(open("file", "wb")); os.unlink("file"); kept[-1].write(bytes(8 << 20))
    """,
    "mapped": """
        with open("file", "w+b") as file:
            file.truncate(8 << 20)
            kept.append(mmap.mmap(file.fileno(), 8 << 20))
        os.unlink("file"); kept[-1].write(bytes(8 << 20))
    """,
    "hidden": """
        ctypes.CDLL(None).prctl(4, 0)  # not dumpable: its /proc entry is closed to others
        kept.append(open("file", "wb")); os.unlink("file"); kept[-1].write(bytes(8 << 20))
    """,
    "threads": """
        def work():
            while True:
                kept.append(open("file", "wb")); os.unlink("file"); kept[-1].write(bytes(8 << 20))
        threading.Thread(target=work).start()
        ctypes.CDLL(None).pthread_exit(0)  # the first thread is what a process shows its files through
    """,
    "descriptors": """
        def work():
            ctypes.CDLL(None).unshare(0x400)  # descriptors of its own, where that is allowed
            while True:
                kept.append(open("file", "wb")); os.unlink("file"); kept[-1].write(bytes(8 << 20))
        threading.Thread(target=work).start()
        time.sleep(60)
    """,
}


@pytest.mark.parametrize("name", WRITERS)
def test_many_files_do_not_fill_the_disk(pool: SandboxPool, task: Task, name: str) -> None:
    """Whether or not they have a name: a second's worth of writing gets by, at most."""
    body = textwrap.indent(textwrap.dedent(WRITERS[name]), "    ")
    script = f"import ctypes, mmap, os, threading, time\nkept, n = [], 0\nwhile True:{body}    n += 1\n"
    with pool.acquire(task) as sandbox:
        restore(task, {task.script: script}, sandbox.workspace)
        result = sandbox.run([task.script], Limits(seconds=20, memory_mb=300, disk_mb=32))
        left = sum(file.lstat().st_blocks * 512 for file in sandbox.workspace.rglob("*"))
    assert result.status == "disk_full" or "does not show what files" in result.output, result
    assert result.seconds < 10, result
    assert left < 2 << 30, left
    assert execute(pool, task, "print('fine')").output == "fine\n"


def test_children_that_nobody_waits_for_do_no_harm(pool: SandboxPool, task: Task) -> None:
    """The kernel does not show what a zombie has open, which is nothing."""
    script = "import os, time\nif os.fork() == 0: os._exit(0)\ntime.sleep(1)\nprint('well')"
    assert execute(pool, task, script).output == "well\n"


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


def test_a_busy_script_keeps_to_the_cores_they_were_given(pool: SandboxPool, task: Task) -> None:
    if os.getuid() != 0 and pool.name != "docker":
        pytest.skip("without root there is no control group, and CPU time is not limited")
    if pool.name == "gvisor":
        pytest.skip("limited as in the process sandbox, but gVisor counts time in which the host stops it as used")
    script = """
        import os, time
        end = (started := time.time()) + 2
        for _ in range(3):
            if os.fork() == 0:
                while time.time() < end: pass
                os._exit(0)
        for _ in range(3): os.wait()
        used = os.times()
        print((used.children_user + used.children_system) / (time.time() - started))
    """
    assert float(execute(pool, task, script).output) < 1.3


def test_answers_home_and_source_data_are_out_of_sight(pool: SandboxPool, task: Task) -> None:
    """`LEAKED_KEY` is in this process's environment when the pool starts its sandboxes."""
    script = f"""
        import os, importlib.util, sys
        for path in ({str(task.private_dir)!r}, {str(task.env_dir)!r}, {str(Path(__file__).parent)!r},
                     "/var/run/docker.sock", "/etc/shadow", {str(Path.home() / ".cache")!r}):
            try: print("VISIBLE", path, os.listdir(path) if os.path.isdir(path) else open(path).read(10))
            except OSError: pass
        keep = ("proc", "sys", "dev")
        for top, folders, files in os.walk("/"):
            if top == "/": folders[:] = [f for f in folders if f not in keep]
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
        try: os.makedirs("/dev/left/over")
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


def test_sandboxes_work_at_the_same_time(pool: SandboxPool, task: Task) -> None:
    results: list[RunResult] = []
    threads = [
        threading.Thread(target=lambda: results.append(execute(pool, task, "import time; time.sleep(1); print('x')")))
        for _ in range(3)
    ]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.status for result in results] == ["ok"] * 3
    print(f"{pool.name}: three experiments of a second took {time.monotonic() - started:.1f} s")


def test_nothing_outlives_a_host_that_is_killed(
    pool: SandboxPool, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of an experiment: its host dies by SIGKILL, and the experiment stops writing."""
    host = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
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
        deadline = time.monotonic() + 10
        while not alive.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    time.sleep(1)
    size = alive.stat().st_size
    time.sleep(0.3)
    assert size > 0 and alive.stat().st_size == size
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


def test_an_experiment_that_gets_to_run_late_is_not_one_that_hides_its_files(pool: SandboxPool, task: Task) -> None:
    if pool.name == "gvisor":
        pytest.skip("the host does not see the processes in gVisor")
    with pool.acquire(task) as sandbox:
        (sandbox.workspace / "late.py").write_text("print('well')")
        runner = runner_of(sandbox.workspace)
        [spare] = map(int, Path(f"/proc/{runner}/task/{runner}/children").read_text().split())
        os.kill(spare, signal.SIGSTOP)
        threading.Timer(2, os.kill, (spare, signal.SIGCONT)).start()
        assert sandbox.run(["late.py"], Limits(seconds=20)).output == "well\n"


def runner_of(workspace: Path) -> int:
    """Host's process id of the PID 1 that has `workspace` mounted."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            mounted = str(workspace.parent.name) in (entry / "mountinfo").read_text()
            inner = (entry / "status").read_text().split("NSpid:")[1].split("\n")[0].split()
        except OSError:
            continue
        if mounted and inner[-1] == "1" and len(inner) > 1:
            return int(entry.name)
    raise LookupError(f"no runner has {workspace} mounted")


def test_a_warm_step_costs_less_than_a_python_start(pool: SandboxPool, task: Task) -> None:
    script = """
        import pandas
        from sklearn.ensemble import RandomForestClassifier
        data = pandas.read_csv("train.csv")
        print(RandomForestClassifier(20).fit(data[["x"]], data["y"]).score(data[["x"]], data["y"]))
    """
    execute(pool, task, script)
    times = []
    for _ in range(10):
        started = time.monotonic()
        assert execute(pool, task, script).status == "ok"
        times.append(time.monotonic() - started)
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=task.env_dir, check=True, capture_output=True)
    bare = time.monotonic() - started
    print(f"\n{pool.name}: warm step {sorted(times)[5]:.3f} s (best {min(times):.3f} s), bare python {bare:.3f} s")
    assert sorted(times)[5] < bare


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


def test_numerical_threads_follow_the_limit_on_cores(pool: SandboxPool, tmp_path: Path) -> None:
    script = """
        import numpy, os, threadpoolctl
        from sklearn.ensemble import HistGradientBoostingClassifier
        numpy.ones((400, 400)) @ numpy.ones((400, 400))
        HistGradientBoostingClassifier(max_iter=2).fit(numpy.arange(200).reshape(100, 2), numpy.arange(100) % 2)
        print(max(found["num_threads"] for found in threadpoolctl.threadpool_info()), os.environ["OMP_NUM_THREADS"])
    """
    two = make_task(tmp_path, Limits(seconds=20, cpus=2, memory_mb=600))
    assert execute(pool, two, script).output == "2 2\n"
