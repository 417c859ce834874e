"""Dashboards and alerts against a real Prometheus that watches a real, short run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from actors.runtime.metrics import METRICS
from cluster.head import Head
from cluster.job import Job
from cluster.ports import Ports
from cluster.quickstart import ROOT, connect, entrypoint
from tests.main_job import engine_answers

FOLDER = ROOT / "cluster" / "dashboards"
DASHBOARDS = sorted(FOLDER.glob("*.json"))
SECONDS = 240
MAY_BE_EMPTY = {"ray_mlagent_engine_preemptions_total"}
"""Of metrics that alerts name."""

pytestmark = pytest.mark.skipif(
    not shutil.which("prometheus"),
    reason="NOT TESTED, there is no Prometheus: apt-get install prometheus, or put its binaries on the PATH",
)


def panels() -> Iterator[tuple[str, dict]]:
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            yield f"{file.stem}: {panel['title']}", panel


def named(expression: str) -> set[str]:
    """Metrics that an expression names."""
    return set(re.findall(r"\bray_[a-z_]+", expression))


class Prometheus:
    """One that scrapes the nodes of a head every second."""

    def __init__(self, folder: Path, discovery: Path):
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["file_sd_configs"][0] = {"files": [str(discovery)], "refresh_interval": "1s"}
        config["rule_files"] = [str(FOLDER / name) for name in config["rule_files"]]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._ports = Ports(1)
        (port,) = self._ports.numbers
        self._address, self._log = f"http://127.0.0.1:{port}", (folder / "prometheus.log").open("w")
        self._process = subprocess.Popen(
            [
                "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ask(self, path: str, **parameters: str) -> list:
        url = f"{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]["groups" if path == "rules" else "result"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._ports.close()
        self._log.close()


@pytest.fixture(scope="module")
def watched(tmp_path_factory, tiny_model) -> Iterator[tuple[Prometheus, float, float]]:
    """A Prometheus that has seen a whole run, with the times of the run's begin and end."""
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        with Head() as head:
            client = connect(head)
            prometheus = Prometheus(folder, head._folder / "prom_metrics_service_discovery.json")
            try:
                begun = time.time()
                backend = "docker" if engine_answers() else "process"
                command = [
                    "python", "learner/main.py", "config=smoke", f"run.dir={folder}", f"model.path={tiny_model}",
                    "tasks.held_in=[wine]", "tasks.held_out=[iris_petal]", f"sandbox.backend={backend}",
                    "evaluation.every=1",
                    "rl.steps=4", "sft.epochs=0", "rl.algorithm=ppo",  # which trains though a random model fails always
                ]  # fmt: skip
                job = Job(client, entrypoint(command, in_place=True), {})
                lines = list(job)
                assert job.exit_code() == 0, "".join(lines[-20:])
                yield prometheus, begun, time.time()
            finally:
                prometheus.close()


@pytest.mark.timeout(SECONDS)
@pytest.mark.long
def test_every_panel_shows_something_of_a_run(watched):
    prometheus, begun, ended = watched
    empty = []
    for title, panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$run", ".*")
            found = prometheus.ask("query_range", query=expression, start=str(begun), end=str(ended), step="1")
            if not any(value not in ("NaN", "+Inf") for series in found for _, value in series["values"]):
                empty.append(f"{title}: {expression}")
    assert not empty, "\n".join(empty)


@pytest.mark.long
def test_every_metric_of_the_project_was_told_and_is_shown_or_alerted_on(watched):
    prometheus, begun, ended = watched
    seen = {found["metric"]["__name__"] for found in prometheus.ask(
        "query_range", query='{__name__=~"ray_mlagent_.+"}', start=str(begun), end=str(ended), step="1")}  # fmt: skip
    shown = {name for _, panel in panels() for target in panel["targets"] for name in named(target["expr"])}
    suffixes = {"gauge": "", "counter": "_total", "histogram": "_bucket"}
    for name, metric in METRICS.items():
        exported = f"ray_{name}{suffixes[metric.kind]}"
        assert exported in seen | MAY_BE_EMPTY, f"{exported} was not told"
        assert exported in shown | MAY_BE_EMPTY, f"no panel shows {exported}"


@pytest.mark.long
def test_alerts_are_loaded_and_none_fires_on_a_healthy_run(watched):
    prometheus, _, _ = watched
    (group,) = prometheus.ask("rules")
    written = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
    assert [rule["name"] for rule in group["rules"]] == [rule["alert"] for rule in written]
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    firing = [rule["name"] for rule in group["rules"] if rule["state"] == "firing"]
    assert not firing


def test_alerts_fire_when_they_should(tmp_path):
    """promtool's own test of rules, on series that are written here."""
    steps = {
        "MlagentStalled": (['ray_mlagent_step{run="a"}', "3x100"], "80m"),
        "MlagentLogprobGap": (['ray_mlagent_logprob_gap_nats{run="a"}', "0.2x100"], "15m"),
        "MlagentActorsMissing": (['ray_mlagent_actors{run="a", state="wanted"}', "4x100"], "30m"),
        "MlagentSuspicious": (['ray_mlagent_suspicious_ratio{run="a", finding="any"}', "0.2x100"], "40m"),
        "MlagentNothingToCompare": (['ray_mlagent_training{run="a", figure="equal_share"}', "0.6x100"], "40m"),
        "MlagentTruncated": (['ray_mlagent_transitions_total{run="a", outcome="truncated"}', "0+1x100"], "70m"),
        "MlagentInvalidActions": (['ray_mlagent_valid_ratio{run="a"}', "0.1x100"], "40m"),
        "MlagentInfrastructureFailures": (
            ['ray_mlagent_experiments_total{run="a", outcome="infra_failure"}', "0+1x100"], "40m",
        ),
        "MlagentLearnerWaits": (['ray_mlagent_phase_seconds{run="a", phase="wait"}', "60x100"], "40m"),
    }  # fmt: skip
    healthy = [
        ('ray_mlagent_actors{run="a", state="serving"}', "2x100"),
        ('ray_mlagent_phase_seconds{run="a", phase="step"}', "100x100"),
    ]
    rules = {rule["alert"] for rule in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]}
    assert rules == {*steps, "MlagentNodeMemory"}
    series = [*[found for found, _ in steps.values()], *healthy]
    checks = [{"eval_time": when, "alertname": name} for name, (_, when) in steps.items()]
    test = {
        "rule_files": [str(FOLDER / "alerts.yml")],
        "tests": [{
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series],
            "alert_rule_test": checks,
        }],
    }  # fmt: skip
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True)
    told = done.stdout + done.stderr
    for name in steps:  # none is expected, so that each that fires is told as a failure
        assert f"alertname: {name}, " in told, f"{name} does not fire:\n{told}"


def test_promtool_finds_nothing_wrong():
    for kind, name in (("config", "prometheus.yml"), ("rules", "alerts.yml")):
        done = subprocess.run(["promtool", "check", kind, str(FOLDER / name)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_dashboards_are_complete_for_an_import():
    assert len({json.loads(file.read_text())["uid"] for file in DASHBOARDS}) == len(DASHBOARDS) == 2
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        assert board["title"] and board["schemaVersion"] >= 39 and "id" not in board
        assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "run"}
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
        assert len(set(places)) == len(places)
        for panel in board["panels"]:
            assert panel["title"] and panel["description"].endswith(".")
            assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
            for target in panel["targets"]:
                assert target["datasource"]["uid"] == "${datasource}"
                assert named(target["expr"]), "an expression without a metric"
