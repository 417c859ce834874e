"""Who is evaluated: what the command line says, and the names that agents are known by."""

import pytest
from omegaconf import OmegaConf

from actors.agents import ENDPOINT, EXPERT, POLICY, RANDOM, Agent
from learner.config.load import ConfigError, load
from learner.evaluate import listed, main, read, reported
from learner.evaluation import trials
from learner.evaluation.evaluation import EvaluationError


@pytest.fixture
def run(tmp_path):
    """The folder of a run with two checkpoints."""
    folder = tmp_path / "first"
    for step in (5, 10):
        (folder / f"checkpoints/step_{step}/hf").mkdir(parents=True)
    OmegaConf.save(load(["model.path=Qwen/Qwen2.5-7B", "tasks.held_in=[wine]"]), folder / "config.yaml")
    return folder


def test_a_run_is_its_model_before_and_its_newest_checkpoint_with_its_settings(run):
    names, cfg = read([str(run), "evaluation.attempts=3"])
    assert list(cfg.tasks.held_in) == ["wine"] and cfg.evaluation.attempts == 3
    assert cfg.evaluation.folder == str(run / "evaluation")
    newest = str(run / "checkpoints/step_10/hf")
    assert listed(names, cfg.evaluation.baselines) == [
        Agent("Qwen2.5-7B", POLICY, "Qwen/Qwen2.5-7B"),
        Agent("first/step_10", POLICY, newest),
        Agent("random", RANDOM),
        Agent("expert", EXPERT),
        Agent("greedy", EXPERT, search=True),
    ]


def test_the_report_of_an_evaluated_run_is_written_again_and_of_no_other_folder(run, tmp_path):
    (run / "evaluation").mkdir()
    assert reported(run / "evaluation") == run / "report.html" and (run / "report.html").is_file()
    assert reported(tmp_path / "evaluation") is None and reported(run / "elsewhere") is None


def test_any_agent_can_be_searched_with(run):
    names, cfg = read([f"greedy:{run}", "greedy:https://host/v1#big", "small/model"])
    assert list(cfg.tasks.held_in) == ["wine"]
    found = listed(names, [])
    assert [(agent.name, agent.search) for agent in found] == [
        ("greedy:Qwen2.5-7B", True),
        ("greedy:first/step_10", True),
        ("greedy:big", True),
        ("model", False),
    ]
    assert [agent.model for agent in found][1:3] == [str(run / "checkpoints/step_10/hf"), "big"]


def test_agents_of_one_short_name_are_known_by_the_whole(run):
    url = "https://host/v1"
    found = listed(["Qwen/Qwen2.5-7B", f"{url}#Qwen2.5-7B", f"{url}#other", "Qwen/Qwen2.5-7B"], [])
    assert [(agent.name, agent.kind) for agent in found] == [
        ("Qwen/Qwen2.5-7B", POLICY),
        (f"{url}#Qwen2.5-7B", ENDPOINT),
        ("other", ENDPOINT),
    ]
    assert (found[2].model, found[2].url) == ("other", url)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluation.baselines=[]"], "nobody is to be evaluated"),
        (["https://host/v1"], "say which model of the endpoint, as in https://host/v1#MODEL"),
        (["evaluation.setps=3"], "did you mean"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_a_checkpoint_is_refused(run):
    for folder in (run / "checkpoints").iterdir():
        folder.rename(run / f".{folder.name}")
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        listed([str(run)], [])


def test_simulated_experiments_are_refused(tmp_path):
    cfg = load(["sandbox.backend=simulated", "sandbox.recorded=x"])
    with pytest.raises(EvaluationError, match="counts only experiments that ran"):
        trials.run(cfg, [Agent("expert", EXPERT)], tmp_path)
