"""Every rule has a case: what it refuses, in which words, and the least that makes it possible."""

import ast
import functools
import inspect

import pytest

from learner.config import rules
from learner.config.load import ConfigError, load

GPUS = ["learner.transfer=nccl", "learner.gpus=1", "actors.gpus=1", "learner.full_every=1"]
SHARED = ["learner.transfer=ipc", "learner.gpus=0.5", "actors.gpus=0.25"]
TURNS = ["actors.colocate=true", "learner.gpus=0.5", "actors.gpus=0.5"]
CASES = [
    # (arguments that are refused, what is said, what is added to have them accepted)
    (["run.track=[wandb,mlflow,trackio,neptune]"], "run.track=neptune: ", ["run.track=[wandb,mlflow,trackio]"]),
    (["run.mode=serial", "sandbox.hosts=1", "sandbox.cpus=1", "sandbox.memory_gb=1"], "sandbox.hosts are Ray",
     ["run.mode=ray"]),
    (["run.name=.."], "run.name=.. must be a plain folder name", ["run.name=a.b"]),
    (["run.name=a/b"], "run.name=a/b must be a plain", ["run.name=b"]),
    (["model.response=1536"], "model.response=1536 must be below model.context=1536", ["model.response=1535"]),
    (["model.thinking=[a]"], "model.thinking=['a'] must be two texts", ["model.thinking=[a,b]"]),
    (["learner.row_tokens=1535"], "learner.row_tokens=1535 must be at least model.context=1536",
     ["learner.row_tokens=1536"]),
    (["tasks.held_in=[]"], "tasks.held_in is empty", ["tasks.held_in=[wine]"]),
    (["tasks.held_in=[b,a,wine,a,b]"], "tasks.held_in and tasks.held_out name a, b twice",
     ["tasks.held_in=[b,a,wine]"]),
    (["tasks.held_in=[wine]", "tasks.held_out=[wine]"], "name wine twice", ["tasks.held_out=[]"]),
    (["run.mode=serial", "learner.ranks=2"], "run.mode=serial is one process", ["learner.ranks=1"]),
    (["run.mode=serial", "actors.count=2"], "run.mode=serial is one process", ["actors.count=1"]),
    (["run.mode=serial", "actors.max=2"], "run.mode=serial is one process", ["actors.max=1"]),
    (["learner.ranks=2", "learner.gpus=0.5"], "learner.gpus=0.5 has two of the learner.ranks on one card",
     ["learner.gpus=1"]),
    (["sandbox.backend=simulated"], "sandbox.backend=simulated needs sandbox.recorded", ["sandbox.recorded=x"]),
    (["evaluation.every=1", "sandbox.backend=simulated", "sandbox.recorded=x"], "evaluation.every needs experiments",
     ["sandbox.backend=process"]),
    (["evaluation.patience=1"], "evaluation.patience counts evaluations", ["evaluation.every=1"]),
    (["sandbox.requirements=paper", "sandbox.image=mine"], "leave sandbox.image out", ["sandbox.image="]),
    (["sandbox.requirements=paper", "sandbox.packages=torch"], "leave sandbox.packages out", ["sandbox.packages=base"]),
    (["sandbox.hosts=2", "sandbox.cpus=1"], "sandbox.hosts=2 needs", ["sandbox.memory_gb=1"]),
    (["sandbox.hosts=2", "sandbox.memory_gb=1"], "sandbox.hosts=2 needs", ["sandbox.cpus=1"]),
    (["learner.node=role"], "learner.node=role must be a Ray label", ["learner.node=role=x"]),
    (["actors.node==x=y"], "actors.node==x=y must be a Ray label KEY=VALUE, such as role=actors", ["actors.node=k=x"]),
    (["sandbox.node=k="], "sandbox.node=k= must be a Ray label", ["sandbox.node=k=x"]),
    (["editor.endpoint=http://x/v1"], "editor.endpoint needs editor.model", ["editor.model=m"]),
    (["experts.kind=llm"], "experts.kind=llm needs experts.model", ["experts.model=m"]),
    (["experts.response=4096", "experts.context=4096"], "experts.response=4096 must be below experts.context=4096",
     ["experts.response=4095"]),
    (["experts.embeddings=http://x/v1"], "experts.embeddings is an endpoint", ["experts.embedding_model=m"]),
    (["experts.embeddings=https://x/v1"], "experts.embeddings is an endpoint", ["experts.embeddings=folder"]),
    (["rl.actions=1"], "rl.actions=1 must be at least 2: grpo compares", ["rl.algorithm=ppo"]),
    (["rl.actions=1", "rl.algorithm=rloo"], "rloo compares", ["rl.actions=2"]),
    (["rl.discount=0.9", "rl.episode_steps=2"], "rl.discount=0.9 is of single steps", ["rl.episode_steps=1"]),
    (["rl.objective=best_of", "rl.best_of=16"], "rl.best_of=16 must be below rl.actions=16", ["rl.best_of=15"]),
    (["rl.objective=best_of", "rl.algorithm=ppo"], "rl.objective=best_of compares", ["rl.algorithm=rloo"]),
    (["rl.objective=entropic", "rl.algorithm=grpo"], "rl.objective=entropic with", ["rl.entropic_beta=2"]),
    (["rl.curriculum=0.5", "tasks.held_in=[a,b]"], "rl.curriculum needs", ["tasks.held_in=[a@0.1,b]"]),
    (["rl.curriculum=0.5", "tasks.held_in=[a@0.1,b@0.2]"], "rl.curriculum needs", ["rl.curriculum=0"]),
    (["rl.dual_clip=1"], "rl.dual_clip=1.0 must be above 1", ["rl.dual_clip=1.001"]),
    (["rl.dual_clip=3", "rl.loss=cispo"], "rl.dual_clip is of rl.loss=ppo", ["rl.loss=ppo"]),
    (["rl.mask_low=5"], "rl.mask_low=5.0 must be below rl.mask_high=5.0", ["rl.mask_high=5.1"]),
    (["rl.dual_clip=0.001"], "rl.dual_clip=0.001 must be above 1", ["rl.dual_clip=0"]),
    (["learner.offload=optimizer", "learner.zero_stage=0"], "learner.offload=optimizer",
     ["learner.zero_stage=1"]),
    (["learner.offload=all", "learner.zero_stage=2"], "learner.offload=all needs", ["learner.zero_stage=3"]),
    (["actors.colocate=true"], "actors.colocate is for one card", ["learner.gpus=0.5", "actors.gpus=0.5"]),
    (["actors.colocate=true", "learner.gpus=0.5", "actors.gpus=0.25", "actors.count=2"], "actors.count=1",
     ["actors.count=1"]),
    ([*TURNS, "actors.max=2"], "one actor have in turns", ["actors.max=1"]),
    ([*TURNS, "run.mode=serial"], "run.mode=ray", ["run.mode=ray"]),
    ([*TURNS, "learner.ranks=2"], "actors.colocate is for one card", ["learner.ranks=1"]),
    ([*TURNS, "learner.gpus=1"], "actors.colocate is for one card", ["learner.gpus=0.5"]),
    ([*TURNS, "learner.transfer=nccl"], "no two processes of one card", ["learner.transfer=auto"]),
    ([*TURNS, "learner.transfer=ipc"], "actors.colocate needs learner.transfer=object_store",
     ["learner.transfer=object_store"]),
    ([*TURNS, "learner.full_every=2"], "actors.colocate needs learner.full_every=1", ["learner.full_every=1"]),
    ([*TURNS, "experts.kind=llm", "experts.model=m"], "leaves no card to serve experts.model",
     ["experts.endpoint=http://x/v1"]),
    ([*TURNS, "experts.kind=llm", "experts.model=m"], "leaves no card to serve experts.model", ["experts.path=x"]),
    (["learner.lora.targets=[q_proj]"], "learner.lora.targets needs learner.lora.rank", ["learner.lora.rank=1"]),
    (["actors.min=2"], "actors.min=2 ≤ actors.count=1 ≤ actors.max=0 must hold", ["actors.count=2"]),
    (["actors.count=2", "actors.max=1"], "actors.count=2", ["actors.max=2"]),
    ([*GPUS, "learner.gpus=0"], "learner.transfer=nccl needs GPUs", ["learner.gpus=1"]),
    ([*GPUS, "actors.gpus=0"], "learner.transfer=nccl needs GPUs", ["actors.gpus=1"]),
    ([*GPUS, "learner.gpus=0.9"], "learner.transfer=nccl takes no two", ["learner.gpus=1"]),
    ([*GPUS, "actors.gpus=0.9"], "learner.transfer=nccl takes no two", ["actors.gpus=2"]),
    (["actors.gpus=1.5"], "actors.gpus=1.5: an engine has whole cards", ["actors.gpus=3"]),
    (["actors.gpus=2.5"], "actors.gpus=2.5: an engine has whole cards", ["actors.gpus=0.5"]),
    ([*SHARED, "learner.gpus=0"], "learner.transfer=ipc is for one card", ["learner.gpus=0.5"]),
    ([*SHARED, "actors.gpus=0"], "learner.transfer=ipc is for one card", ["actors.gpus=0.25"]),
    ([*SHARED, "actors.count=3"], "learner.transfer=ipc is for one card", ["actors.count=2"]),
    ([*SHARED, "actors.max=3"], "learner.transfer=ipc is for one card", ["actors.max=2"]),
    ([*SHARED, "learner.ranks=2"], "learner.transfer=ipc is for one card", ["learner.ranks=1"]),
    ([*SHARED, "run.mode=serial"], "learner.transfer=ipc is for one card", ["run.mode=ray"]),
    ([*GPUS, "run.mode=serial"], "learner.transfer=nccl needs GPUs", ["run.mode=ray"]),
    ([*GPUS, "learner.full_every=2"], "learner.transfer=nccl always sends full", ["learner.transfer=object_store"]),
    (["rl.gap_stop=0.2", "rl.gap_warn=0.2"], "rl.gap_stop=0.2 must be above rl.gap_warn=0.2", ["rl.gap_stop=0.21"]),
]  # fmt: skip


@functools.cache
def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load(list(arguments))
    return str(refused.value)


@pytest.mark.parametrize(("arguments", "says", "repair"), CASES, ids=[" ".join(given) for given, *_ in CASES])
def test_what_cannot_work_together_is_refused_until_it_can(arguments, says, repair):
    assert says in refusal(*arguments)
    load([*arguments, *repair])


def test_no_rule_is_without_a_case():
    """But for the one that asks where the process runs, which `test_config.py` has."""
    said = [refusal(*arguments) for arguments, *_ in CASES]
    for node in ast.walk(ast.parse(inspect.getsource(rules.impossible))):
        if isinstance(node, ast.Return):
            parts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            assert (
                parts == [None]
                or parts[0] == "run.dir="
                or any(all(str(part) in message for part in parts) for message in said)
            ), f"no case of {ast.unparse(node)}"
