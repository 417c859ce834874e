"""What the doctor and the start of a run conclude from what they see."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement

from actors.policy.sizes import ModelSize
from cluster.checks import nodes, rehearsal, sandboxes
from cluster.checks.nodes import About
from cluster.checks.sandboxes import Trial
from envs.benchmarks.loader import BUILTIN, load
from learner.config.load import load as configure
from learner.config.schema import Config, RewardConfig
from learner.config.sockets import outside
from learner.run import preflight
from learner.run.preflight import Node, Verdict

SEVEN_B = ModelSize(7_600_000_000, layers=28, width=3584, inner=18944, keys=512, vocabulary=152064)
SMALL = dataclasses.replace(SEVEN_B, parameters=10**6)
KEPT, GB = Trial(1.0, (), ()), 10**9


def about(host: str = "here", shm: float = 8 * GB, scratch: float = 50 * GB, model: bool = True, **versions: str):
    return About(host, versions, int(shm), int(scratch), model)


def node(labels: dict[str, str] | None = None, id: str = "", **resources: float) -> Node:
    return Node(id or uuid.uuid4().hex, "host", resources, labels or {})


@pytest.fixture(scope="module")
def versions() -> dict[str, str]:
    return preflight.installed(preflight.requirements(gpu=False))


def test_this_environment_is_that_of_the_project(versions):
    assert preflight.packages(False, versions).verdict is Verdict.OK


def test_another_version_and_a_missing_package_are_named_with_what_to_install(versions):
    wrong = {name: found for name, found in versions.items() if name != "msgspec"} | {"deepspeed": "0.18.2"}
    finding = preflight.packages(False, wrong)
    assert finding.verdict is Verdict.FAILED
    assert "deepspeed is 0.18.2, not ==0.19.8" in finding.found and "msgspec is not installed" in finding.found
    assert "requirements-cpu.txt" in finding.fix
    assert "vllm is not installed" in preflight.packages(True, versions).found


def test_a_build_of_a_version_is_that_version():
    assert not preflight.differs(Requirement("torch==2.13.0"), {"torch": "2.13.0+cpu"})


def test_a_run_fits_where_each_process_finds_one_node_for_all_that_it_asks():
    cfg = configure(["actors.count=3", "actors.cpus=4", "actors.gpus=1", "learner.cpus=2"])
    assert preflight.resources(cfg, [node(CPU=8, GPU=2), node(CPU=8, GPU=2)]).verdict is Verdict.OK
    scattered = preflight.resources(cfg, [node(CPU=14), node(CPU=2, GPU=4)])
    assert scattered.verdict is Verdict.FAILED
    assert "3 with 4 CPUs, 1 GPU free" in scattered.fix and "actors.count or actors.gpus" in scattered.fix


def test_only_what_finds_no_place_is_asked_for():
    cfg = configure(["actors.count=2", "actors.cpus=2", "learner.ranks=2", "learner.cpus=1"])
    finding = preflight.resources(cfg, [node(CPU=4)])
    assert "2 × actors (2 CPUs), 2 × learner (1 CPU) do not fit on the nodes: 1 × (4 CPUs)" in finding.found
    assert finding.fix == "add nodes (2 with 1 CPU free), or lower learner.ranks or learner.cpus"


def test_an_autoscaler_is_trusted_to_add_what_is_missing():
    cfg = configure(["actors.count=2", "actors.cpus=8"])
    finding = preflight.resources(cfg, [node(CPU=2)], autoscales=True)
    assert finding.verdict is Verdict.NOTE and "2 with 8 CPUs free" in finding.fix


def test_labels_and_hosts_of_sandboxes_are_asked_for():
    cfg = configure(["learner.node=role=learner", "sandbox.hosts=2", "sandbox.cpus=8", "sandbox.memory_gb=16"])
    small = node(CPU=15, memory=64 * GB)
    finding = preflight.resources(cfg, [small])
    assert "1 with 1 CPU and the Ray label role=learner free" in finding.fix
    assert "1 with 8 CPUs, 17.2 GB of memory free" in finding.fix
    labelled = node({"role": "learner"}, CPU=8, memory=32 * GB)
    assert preflight.resources(cfg, [small, labelled]).verdict is Verdict.FAILED
    assert preflight.resources(cfg, [small, labelled, dataclasses.replace(small, id="another")]).verdict is Verdict.OK


def test_hosts_that_give_out_cards_ask_for_a_node_each():
    given = ["sandbox.hosts=2", "sandbox.cpus=2", "sandbox.memory_gb=1"]
    cfg = configure([*given, "sandbox.gpus=[0]"])
    large = node(CPU=15, memory=64 * GB)
    finding = preflight.resources(cfg, [large])
    assert "1 with 2 CPUs, 1.07 GB of memory free that have no other (sandbox.gpus)" in finding.fix
    assert preflight.resources(cfg, [large, dataclasses.replace(large, id="another")]).verdict is Verdict.OK
    assert preflight.resources(configure(given), [large]).verdict is Verdict.OK


def test_the_smallest_object_store_must_hold_the_weights():
    cfg, seven_b = configure([]), SEVEN_B
    stores = [node(CPU=8, object_store_memory=40 * GB), node(CPU=8, object_store_memory=20 * GB)]
    finding = preflight.object_store(cfg, seven_b, stores)
    assert finding.verdict is Verdict.FAILED and "--object-store-memory=30400000000" in finding.fix
    nothing_runs_there = node(CPU=0, object_store_memory=GB)
    assert preflight.object_store(cfg, seven_b, [stores[0], nothing_runs_there]).verdict is Verdict.OK


def test_parameters_are_counted_from_the_headers(tiny_model):
    from transformers import AutoModelForCausalLM

    there = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert ModelSize.read(tiny_model).parameters == sum(parameter.numel() for parameter in there.parameters())


def test_shared_memory_must_hold_the_object_store():
    there = [node(id=name, object_store_memory=4 * GB) for name in "ab"]
    finding = nodes.shared_memory({"a": about(), "b": about("small", shm=0.06 * GB)}, there)
    assert finding.verdict is Verdict.FAILED and "small" in finding.found and "--shm-size" in finding.fix


def test_a_clock_that_is_off_and_a_model_that_is_not_there_name_their_host():
    found = {"a": about("good"), "b": about("off", model=False)}
    clocks = nodes.clocks({"a": 0.01, "b": -7.0}, found)
    assert clocks.verdict is Verdict.FAILED and "off is 7.0 s behind" in clocks.found and "good" not in clocks.found
    assert "is not on off" in nodes.model(found, Path("/models/mine")).found


def test_a_part_from_outside_that_one_node_has_not_got_is_named_with_it():
    cfg = OmegaConf.structured(Config(reward=RewardConfig(version="nowhere_at_all:mine")))
    found, settings = {"a": about("good"), "b": about("off")}, outside(cfg)
    assert settings == ["reward.version=nowhere_at_all:mine"]
    assert nodes.parts(found, settings, {"a": None, "b": None}).verdict is Verdict.OK
    finding = nodes.parts(found, settings, {"a": None, "b": nodes.Probe().refused(cfg)})
    assert finding.verdict is Verdict.FAILED
    assert finding.found.startswith("off: reward.version=nowhere_at_all:mine cannot be imported")


def test_versions_of_all_nodes_are_held_against_the_lock(versions):
    locked = versions | preflight.installed(nodes.locked())
    assert nodes.versions(False, {"a": about(**locked)}).verdict is Verdict.OK
    other = nodes.versions(False, {"a": about(**locked), "b": about("old", **locked | {"certifi": "2020.1.1"})})
    assert other.verdict is Verdict.NOTE and "old: certifi is 2020.1.1" in other.found
    wrong = nodes.versions(False, {"a": about("old", **locked | {"ray": "2.58.0"})})
    assert wrong.verdict is Verdict.FAILED and "old: ray is 2.58.0" in wrong.found


def test_room_for_checkpoints_is_asked_for_before_they_are_written(tmp_path):
    cfg = configure([f"run.dir={tmp_path}"])
    assert nodes.disk(cfg, SMALL, {"a": about()}).verdict is Verdict.OK
    full = nodes.disk(cfg, dataclasses.replace(SEVEN_B, parameters=10**13), {"a": about()})
    assert full.verdict is Verdict.FAILED and "checkpoint.keep" in full.fix
    assert "TMPDIR" in nodes.disk(cfg, SMALL, {"a": about(scratch=GB)}).fix


def test_imports_of_a_script_leave_out_the_standard_library_and_its_own_modules(tmp_path):
    (tmp_path / "helpers.py").touch()
    script = "import os, numpy as np\nfrom sklearn.svm import SVC\nimport helpers\ndef f():\n    import torch.nn\n"
    (tmp_path / "train.py").write_text(script)
    task = dataclasses.replace(load(BUILTIN / "wine"), env_dir=tmp_path)
    assert sandboxes.imports(task) == {"numpy", "sklearn", "torch"}


def test_a_sandbox_that_is_not_needed_may_be_absent():
    trials = {"docker": "no engine", "process": KEPT}
    found = {one.check: one.verdict for one in sandboxes.judge(trials, "auto", {"wine": {"numpy"}})}
    assert found == {"sandbox docker": Verdict.NOTE, "sandbox process": Verdict.OK, "imports": Verdict.OK}
    for chosen, there in {"docker": {"docker": "no engine"}, "auto": {"docker": "no", "process": "no"}}.items():
        found = sandboxes.judge(there, chosen, {})
        assert {one.verdict for one in found} == {Verdict.FAILED} and all(one.fix for one in found)


def test_a_broken_promise_fails_and_a_missing_package_names_who_imports_it():
    trials = {"process": Trial(1.0, ("network: a script reached Ray's GCS",), ("torch",))}
    found = sandboxes.judge(trials, "process", {"wine": {"numpy"}, "mnist": {"torch"}})
    assert [one.verdict for one in found] == [Verdict.FAILED] * 2
    assert "reached Ray's GCS" in found[0].found
    assert found[1].found == "mnist imports torch: not in the process sandbox"
    assert "sandbox.packages=torch" in found[1].fix


def test_packages_of_a_list_are_told_with_their_place_or_why_there_are_none():
    there = sandboxes.judge_installation("mine.txt", sandboxes.Installation("/cache/packages/1", 7, 40.0))
    assert (
        there.verdict is Verdict.OK
        and there.found == "7 packages of mine.txt in /cache/packages/1; installed in 40.0 s"
    )
    none = sandboxes.judge_installation("mine.txt", "mine.txt lists no package")
    assert (none.verdict, none.found) == (Verdict.FAILED, "mine.txt lists no package") and none.fix


def test_what_a_sandbox_cannot_bound_is_said():
    trials = {"process": Trial(1.0, (), (), ("CPU time: 2.0 cores were used where 1 is allowed",))}
    [found, _] = sandboxes.judge(trials, "process", {})
    assert found.verdict is Verdict.OK and "not bounded without a control group: CPU time" in found.found


def test_a_gap_between_engine_and_learner_fails_where_a_run_would_stop():
    cfg = configure([])
    assert rehearsal.log_probs(cfg, 0.4, [], 1.0, 1.0).verdict is Verdict.OK
    assert rehearsal.log_probs(cfg, 0.6, [], 1.0, 1.0).verdict is Verdict.FAILED


def test_what_a_run_costs_lies_between_samples_beside_each_other_and_one_after_the_other():
    asked = ["rl.steps=60", "rl.states=4", "rl.actions=16", "actors.count=4", "actors.gpus=1", "learner.gpus=1"]
    prices = ["report.gpu_hour=2", "report.cpu_hour=0", "report.currency=EUR"]
    found = rehearsal.costs(configure([*asked, *prices]), sampled=10.0, trained=2.0, published=5.0).found
    # 16 times 4 samples, on 4 engines: 10 to 40 s, and 2 to 32 s of training beside it; 5 GPUs
    assert found.startswith("60 learner steps take 15.0 min (2.50 EUR) to 45.0 min (7.50 EUR), of 5 GPUs")
    in_turn = rehearsal.costs(configure([*asked, *prices, "rl.max_staleness=0"]), 10.0, 2.0, 5.0).found
    assert "take 17.0 min (2.83 EUR) to 77.0 min (12.83 EUR)" in in_turn
