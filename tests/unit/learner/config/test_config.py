from __future__ import annotations

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from learner.config.load import ConfigError, load
from learner.config.schema import CONFIGS, fields, type_name


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("rl: {steps: 7, states: 3}\ntasks: {held_in: [wine]}\n")
    cfg = load(["rl.states=2", f"config={file}", "run.name=0123", "tasks.held_out=[a, /b/c]", "rl.clip=1e-1"])
    assert (cfg.rl.steps, cfg.rl.states, cfg.rl.actions) == (7, 2, 16)
    assert (cfg.tasks.held_in, cfg.tasks.held_out) == (["wine"], ["a", "/b/c"])
    assert cfg.run.name == "0123"
    assert cfg.rl.clip == 0.1


def test_a_mapping_is_set_by_its_names_or_whole_from_a_file_and_on_the_command_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: {template_arguments: {enable_thinking: true, effort: low}}\n")
    cfg = load([f"config={file}", "model.template_arguments.enable_thinking=false", "model.template_arguments.n=2"])
    assert cfg.model.template_arguments == {"enable_thinking": False, "effort": "low", "n": 2}
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    assert load([f"config={tmp_path / 'config.yaml'}"]) == cfg
    whole = load(["experts.template_arguments={enable_thinking: false}"])
    assert whole.experts.template_arguments == {"enable_thinking": False} and whole.model.template_arguments == {}


def test_a_saved_configuration_loads_again_and_cannot_be_changed(tmp_path):
    cfg = load(["config=quickstart", "run.seed=5", 'run.dir="a b"'])
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    assert load([f"config={tmp_path / 'config.yaml'}"]) == cfg
    with pytest.raises(ReadonlyConfigError):
        cfg.rl.steps = 1


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_config_of_the_project_is_valid(name):
    load([f"config={name}"])


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("rl.setps=3", "unknown key rl.setps: did you mean rl.steps?"),
        ("learning_rate=1", "sft.learning_rate or rl.learning_rate"),
        ("rl=3", "rl.steps or"),
        ("steps", "key=value"),
        ("rl.steps=5.5", "rl.steps=5.5: expected int"),
        ("model.template_arguments=7", "model.template_arguments=7: expected mapping, such as {a: b}"),
        ("rl.steps=", "rl.steps=: expected int"),
        ("rl.steps=-1", "rl.steps=-1 must be at least 0"),
        ("actors.count=0", "actors.count=0 must be above 0"),
        ("rl.clip=nan", "rl.clip=nan must be a finite number"),
        ("rl.learning_rate=inf", "rl.learning_rate=inf must be a finite number"),
        ("model.path=/x${y}", "model.path=/x${y}: ${…} and ??? are not filled in here"),
        ("learner.zero_stage=4", "learner.zero_stage=4 must be at most 3"),
        ("run.resume=maybe", "run.resume=maybe: expected bool"),
        ("sandbox.backend=podman", "choose one of auto, docker, gvisor, process, simulated"),
        ("tasks.held_in=wine", "tasks.held_in=wine: expected list[str], such as [a,b]"),
        ("tasks.held_in=[wine", "tasks.held_in=[wine: expected list[str]"),
        ("tasks.held_in=[]", "tasks.held_in is empty"),
        ("tasks.held_in=[breast_cancer]", "breast_cancer twice"),
        ("config=quickstrat", "known are 1gpu-1.5b, lora-7b-1gpu, ml-agent-7b, prove, quickstart, qwen3-8b, smoke"),
        ("run.name=../x", "run.name=../x must be a plain folder name"),
        ("model.path=", "model.path= is empty"),
        ("run.name=", "run.name= is empty"),
        ("tasks.held_in=[wine,2026-13-45]", "tasks.held_in=[wine,2026-13-45]: expected list[str]"),
        ("sandbox.gpus=[0,-1]", "sandbox.gpus=[0, -1] must be at least 0"),
        ("model.response=1536", "model.response=1536 must be below model.context=1536"),
        ("learner.row_tokens=1000", "learner.row_tokens=1000 must be at least model.context=1536"),
        ("rl.actions=1", "rl.actions=1 must be at least 2"),
        ("rl.dual_clip=0.5", "rl.dual_clip=0.5 must be above 1"),
        ("rl.curriculum=0.5", "rl.curriculum needs tasks.held_in of both kinds"),
        ("learner.offload=all", "learner.offload=all needs learner.zero_stage=3"),
        ("rl.gap_stop=0.01", "rl.gap_stop=0.01 must be above rl.gap_warn=0.05"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(argument, says):
    with pytest.raises(ConfigError) as refused:
        load([argument])
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("rl: {steps: 5.5}", "rl.steps=5.5: expected int"),
        ("root:x:0:0:root:/root:/bin/bash\nsecret:x:1", "mine.yaml is not a config file: its top level must be"),
        ("rl: {steps: 5}\n  secret: [1", "mine.yaml is not a config file: line 2 is not YAML"),
        ("rl: {setps: 5}", "did you mean rl.steps?"),
        ("run: {name: null}", "run.name=None: expected str"),
        ("rl: {steps: [1]}", "rl.steps=[1]: expected int"),
        ("- rl", "its top level must be sections"),
        ("rl: {steps: 5", "is not a config file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, says):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as refused:
        load([f"config={file}"])
    assert says in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_ray_job_needs_an_absolute_folder_for_its_results(tmp_path, monkeypatch):
    folder = tmp_path / "runtime_resources" / "working_dir_files"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=r"run\.dir=runs is relative"):
        load([])
    assert load(["run.dir=/shared/runs"]).run.dir == "/shared/runs"


def test_a_preset_sets_its_keys_but_for_those_given_beside_it(tmp_path):
    def clips(*arguments: str) -> tuple:
        rl = load(arguments).rl
        return rl.clip, rl.clip_high, rl.ratio, rl.preset

    mine = tmp_path / "mine.yaml"
    mine.write_text("rl: {clip: 0.1, preset: dapo, ratio: sequence}")
    assert clips("rl.clip=0.3", "rl.preset=gspo") == (0.3, 4e-4, "sequence", "gspo")
    assert clips(f"config={mine}") == (0.1, 0.28, "sequence", "dapo")
    assert clips(f"config={mine}", "rl.preset=cispo", "rl.clip_high=2") == (1.0, 2.0, "token", "cispo")
    saved = tmp_path / "saved.yaml"
    OmegaConf.save(load([f"config={mine}"]), saved)
    assert load([f"config={saved}"]).rl == load([f"config={mine}"]).rl
    with pytest.raises(ConfigError, match="rl.preset=best: choose one of none, grpo, "):
        load(["rl.preset=best"])


def test_help_shows_every_key_with_its_default(capsys):
    with pytest.raises(SystemExit) as ended:
        load(["rl.steps=2", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    lines: dict[str, str] = {}
    for line in filter(str.strip, shown.splitlines()):
        lines.setdefault(line.split()[0], line)  # a help that is wrapped may go on with the name of a key
    for name, _, kind in fields():
        assert type_name(kind) in lines[name]
    assert "[16]" in lines["rl.actions"]


@pytest.mark.parametrize(
    ("arguments", "sequences", "row_tokens", "transfer"),
    [
        ([], 64, 2048, "object_store"),
        (["model.context=4096"], 64, 4096, "object_store"),
        (["learner.gpus=0.5", "actors.gpus=0.5"], 256, 8192, "ipc"),
        (["learner.gpus=0.5", "actors.gpus=0.25", "actors.count=2"], 256, 8192, "ipc"),
        (["learner.gpus=0.5", "actors.gpus=0.5", "actors.count=2"], 256, 8192, "object_store"),
        (["learner.gpus=1", "actors.gpus=1"], 256, 8192, "object_store"),
        (["actors.gpus=1", "actors.sequences=8", "learner.row_tokens=1536"], 8, 1536, "object_store"),
    ],
)
def test_keys_that_are_left_open_follow_the_device(arguments, sequences, row_tokens, transfer):
    cfg = load(arguments)
    assert (cfg.actors.sequences, cfg.learner.row_tokens, cfg.learner.transfer) == (sequences, row_tokens, transfer)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["actors.gpus=1.5"], "actors.gpus=1.5: an engine has whole cards, or a share of one"),
        (["learner.gpus=2"], "learner.gpus=2.0 must be at most 1"),
        (["learner.gpus=0.5", "actors.gpus=0.5", "learner.transfer=nccl"], "takes no two processes of one card"),
        (["learner.gpus=1", "actors.gpus=1", "learner.transfer=ipc"], "learner.transfer=ipc is for one card"),
    ],
)
def test_cards_that_cannot_be_shared_so_are_refused(arguments, says):
    with pytest.raises(ConfigError) as refused:
        load(arguments)
    assert says in str(refused.value)
