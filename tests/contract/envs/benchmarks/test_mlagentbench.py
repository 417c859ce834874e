"""A folder in MLAgentBench's format, as it is: prepared, listed, edited by another model, run and graded."""

import dataclasses
import json
import re
import shutil
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from envs.admission import node_capacity
from envs.benchmarks import task_file
from envs.benchmarks.loader import TaskError, load
from envs.editor import EndpointEditor
from envs.environment import ANSWER_CHARACTERS, Environment
from envs.experiments import SandboxRunner
from envs.records import Direction, Outcome
from envs.sandbox import SandboxFailure, SandboxPool
from envs.workspace import SnapshotStore

FILES = {
    "env/train.py": """
        import pandas as pd
        train, test = pd.read_csv("train.csv"), pd.read_csv("test.csv")
        test["SalePrice"] = train["SalePrice"].mean()
        test[["Id", "SalePrice"]].to_csv("submission.csv", index=False)
        print("wrote a submission")
    """,
    "env/data_description.txt": "area: in square metres\n",
    "scripts/prepare.py": """
        import pandas as pd
        houses = pd.DataFrame({"Id": range(1, 141), "area": range(40, 180)})
        houses["SalePrice"] = 2 * houses["area"] + 1
        houses[:40].to_csv("../env/train.csv", index=False)
        houses[40:].drop(columns="SalePrice").to_csv("../env/test.csv", index=False)
        houses[40:].to_csv("answer.csv", index=False)
    """,
    "scripts/eval.py": """
        import os
        import sys
        sys.path.append("../env")
        import pandas as pd

        def get_score(submission_folder="../env"):
            submission = pd.read_csv(os.path.join(submission_folder, "submission.csv"))
            answer = pd.read_csv(os.path.join(os.path.dirname(__file__), "answer.csv"))
            return abs(submission["SalePrice"] - answer["SalePrice"]).mean()
    """,
    "scripts/research_problem.txt": "Predict the price of each house of test.csv.\n",
    "scripts/read_only_files.txt": "./train.csv\n./test.csv\n",
}
BETTER = """```python
import pandas as pd
from sklearn.linear_model import LinearRegression

train, test = pd.read_csv("train.csv"), pd.read_csv("test.csv")
test["SalePrice"] = LinearRegression().fit(train[["area"]], train["SalePrice"]).predict(test[["area"]])
test[["Id", "SalePrice"]].to_csv("submission.csv", index=False)
```"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks") / "house-price"
    folder.with_name("house-price.yaml").write_text("metric: MAE\ndirection: minimize\nactions: mlagentbench\n")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text).lstrip())
    return folder


class Endpoint(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that answers every prompt with `BETTER`."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], asked))
        message = {"role": "assistant", "content": BETTER}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"],
                  "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def environment(folder, endpoint, tmp_path_factory):
    try:
        runner = SandboxRunner(SandboxPool("process"), node_capacity())
    except SandboxFailure as reason:
        pytest.skip(f"NOT TESTED, the process sandbox is not to be had: {reason}")
    task = dataclasses.replace(load(folder), id="house-price")
    task = dataclasses.replace(task, limits=dataclasses.replace(task.limits, memory_mb=1024, disk_mb=64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDITOR_KEY", "secret")
        editor = EndpointEditor(f"http://127.0.0.1:{endpoint.server_port}/v1", "some-model", "EDITOR_KEY")
    environment = Environment({task.id: task}, runner, SnapshotStore(tmp_path_factory.mktemp("snapshots")), editor)
    m_init = environment.baseline(task.id).score_after
    environment.tasks[task.id] = dataclasses.replace(task, m_init=m_init)
    yield environment
    environment.close()


def act(environment, state, name, **arguments):
    return environment.step(state, f"Thought: go on\nAction: {name}\nAction Input: {json.dumps(arguments)}")


def test_the_folder_loads_as_it_is(folder, environment):
    task = environment.tasks["house-price"]
    assert (task.metric, task.direction, task.actions, task.m_best) == ("MAE", Direction.MINIMIZE, "mlagentbench", None)
    assert task.read_only == {"train.csv", "test.csv"} and task.editable == {"data_description.txt"}
    assert task.m_init == pytest.approx(140.0, abs=2)
    answers = [(task.parts / part / "answer.csv").read_text().splitlines() for part in ("validation", "test")]
    assert [len(rows) for rows in answers] == [51, 51], "its answers are divided, and its grader knows nothing of it"
    assert not (folder / "env/train.csv").exists(), "the given folder is never written to"


def test_an_unknown_folder_says_what_to_write_and_a_file_beside_it_serves(folder):
    copy = folder.with_name("copied")
    shutil.copytree(folder, copy)
    with pytest.raises(TaskError, match=r"copied\.yaml, states at least metric and direction"):
        load(copy)
    copy.with_name("copied.yaml").write_text("metric: MAE\ndirection: minimize\nactions: mlagentbench\nbest: 0.1\n")
    assert (load(copy).m_best, load(copy).actions) == (0.1, "mlagentbench")


def test_tasks_of_the_benchmark_that_run_as_published_are_known_by_name(tmp_path):
    stated = task_file.read(tmp_path / "amp-parkinsons-disease-progression-prediction")
    assert (stated.metric, stated.direction, stated.actions) == ("SMAPE", Direction.MINIMIZE, ["mlagentbench"])
    with pytest.raises(TaskError, match=r"house-price\.yaml, states at least metric and direction"):
        task_file.read(tmp_path / "house-price")


def test_an_episode_of_the_benchmark(environment, endpoint):
    state = environment.initial_state("house-price")
    listed = act(environment, state, "List Files", dir_path=".")
    assert listed.outcome is Outcome.NEUTRAL and "train.csv" in listed.observation
    noted = act(environment, listed.state, "Append Summary to Research Log", content="the mean is a start")
    assert noted.outcome is Outcome.NEUTRAL and noted.state.undo == ()
    read = act(environment, noted.state, "Read File", file_name="research_log.log")
    assert "the mean is a start" in read.observation
    run = act(environment, noted.state, "Execute Script", script_name="train.py")
    assert (run.outcome, run.score_after) == (Outcome.NEUTRAL, environment.tasks["house-price"].m_init)
    edited = act(
        environment, run.state, "Edit Script (AI)", script_name="train.py", edit_instruction="use the area",
        save_name="train.py",
    )  # fmt: skip
    assert edited.outcome is Outcome.EDITED and edited.score_after == pytest.approx(0.0, abs=1e-6)
    assert edited.action == "edit script (ai)"
    path, key, asked = endpoint.asked[-1]
    assert (path, key, asked["model"]) == ("/v1/chat/completions", "Bearer secret", "some-model")
    assert 'train["SalePrice"].mean()' in asked["messages"][0]["content"]
    back = act(environment, edited.state, "Undo Edit Script", script_name="train.py")
    assert ".mean()" in environment.files(back.state)["train.py"]


def test_what_another_model_says_and_notes_are_escaped_and_bounded(environment):
    environment._editor, answering = (lambda _: "\x1b[2J" + "word " * 5000), environment._editor
    try:
        start = environment.initial_state("house-price")
        result = act(environment, start, "Reflection", things_to_reflect_on="what next")
    finally:
        environment._editor = answering
    assert len(result.observation) == ANSWER_CHARACTERS and result.observation.startswith("\\x1b[2J")
    noted = act(environment, start, "Append Summary to Research Log", content="x" * 50_000)
    assert noted.outcome is Outcome.INVALID and "bytes" in noted.observation


def test_another_script_runs_without_being_graded(environment):
    state = environment.initial_state("house-price")
    written = act(environment, state, "Write File", file_name="look.py", content="print('rows', 40)\n")
    assert written.outcome is Outcome.EDITED and written.score_after == written.score_before
    ran = act(environment, written.state, "Execute Script", script_name="look.py")
    assert (ran.outcome, ran.score_after) == (Outcome.NEUTRAL, None) and "rows 40" in ran.observation
    assert ran.state.score == written.state.score
    broken = act(environment, state, "Write File", file_name="train.py", content="1 / 0\n")
    assert broken.outcome is Outcome.SCRIPT_ERROR


def test_read_only_files_stay_so(environment):
    state = environment.initial_state("house-price")
    for name, arguments in {
        "Write File": {"file_name": "test.csv", "content": "x"},
        "Append File": {"file_name": "train.csv", "content": "x"},
        "Copy File": {"source": "train.py", "destination": "train.csv"},
    }.items():
        assert act(environment, state, name, **arguments).outcome is Outcome.INVALID
    forging = "import os\nfor p in ('train.csv', '/task/train.csv'):\n    open(p, 'a').write('1,2,3')\n"
    result = act(environment, state, "Write File", file_name="train.py", content=forging)
    assert result.outcome is Outcome.SCRIPT_ERROR
    assert re.search("Read-only file system|Permission denied", result.log_tail)


def test_an_editor_that_does_not_answer_is_no_fault_of_the_action(environment):
    environment._editor, answering = EndpointEditor("http://127.0.0.1:9/v1", "gone"), environment._editor
    try:
        result = act(
            environment, environment.initial_state("house-price"), "Reflection", things_to_reflect_on="what next"
        )
    finally:
        environment._editor = answering
    assert result.outcome is Outcome.INFRA_FAILURE and "http://127.0.0.1:9/v1" in result.log_tail
