"""What stands in for everything dear in a rehearsal: a tiny random model of the same architecture, small data under the
names of tasks that are not here, and recorded experiments that nobody ran.

Invariants: nothing is downloaded but a model's configuration and tokenizer; whatever decides how a run computes stays
as it was configured, and only what makes it large is cut.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import yaml

from envs.benchmarks import sources
from envs.benchmarks.loader import BUILTIN, builtin_tasks, limited, load
from envs.experiment_cache import content_key
from envs.records import Durations, Experiment, Outcome, Task
from envs.store import Store
from learner.config.schema import Config

STAND_INS = ("wine", "diabetes", "digits", "breast_cancer")
"""Built-in tasks that lend their data and scripts."""
ON_CPU = {"learner.gpus": 0.0, "actors.gpus": 0.0, "model.dtype": "float32", "learner.transfer": "object_store"}
ON_CARD = {"learner.gpus": 0.5, "actors.gpus": 0.5, "learner.transfer": "auto"}
SMALL: dict[str, Any] = {
    "size": "", "gpus": "", "run.track": [], "run.resume": False, "tasks.limits.gpus": 0,
    "sandbox.backend": "simulated", "sandbox.hosts": 0, "sandbox.node": "", "sandbox.gpus": [], "sandbox.speed": 0.0,
    "sandbox.snapshots": "", "sandbox.cache_path": "", "editor.endpoint": "", "editor.model": "",
    "experts.kind": "builtin", "experts.path": "", "experts.trajectories": 1, "experts.candidates": 10,
    "experts.embeddings": "tfidf", "rl.steps": 2, "rl.states": 2, "rl.refill": 0, "learner.ranks": 1,
    "learner.node": "", "learner.check_every": 1, "actors.count": 1, "actors.min": 1, "actors.max": 0,
    "actors.node": "", "actors.colocate": False, "actors.sequences": 8, "actors.kv_cache_gb": 0.5,
    "evaluation.every": 0, "evaluation.patience": 0, "checkpoint.every": 1, "reward.truncated": "failure",
}  # fmt: skip
"""What is set for any rehearsal. A random model writes until it is cut, so that this has to be worth something."""
AT_MOST = {"model.response": 1024, "experts.steps": 3, "rl.actions": 4, "sft.epochs": 1, "sft.batch": 8}
ENTROPY = 0.001
"""Weight of the entropy where there is none: of actions that all fail nothing else has a gradient."""
NAMES = "*.json", "*.model", "*.txt", "*.jinja"
"""What is fetched of a model."""
WEIGHTS = "*.safetensors.index.json"
SHAPE = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def cut(cfg: Config, folder: Path, on_card: bool) -> tuple[dict[str, Any], list[str]]:
    """(keys of the rehearsal that differ from `cfg`, what stands in for what); makes all that it needs in `folder`.

    on_card: whether this machine has a GPU.

    Raises:
        TaskError, or OSError: a stand-in cannot be made.
    """
    path, model = tiny_model(cfg.model.path, folder / "model")
    keys = SMALL | (ON_CARD if on_card else ON_CPU) | {"model.path": path, "run.name": f"{cfg.run.name}-rehearsal"}
    for name, most in AT_MOST.items():
        section, _, key = name.rpartition(".")
        keys[name] = min(most, getattr(getattr(cfg, section), key))
    keys["rl.best_of"] = max(1, min(cfg.rl.best_of, keys["rl.actions"] - 1))
    if not (cfg.rl.entropy or cfg.rl.entropy_target):
        keys["rl.entropy"] = ENTROPY
    stood_in = []
    for split in ("held_in", "held_out"):
        names = list(getattr(cfg.tasks, split))
        here = {name: _task(name, folder / "tasks", number) for number, name in enumerate(names)}
        stood_in += [name for name in names if here[name] != name]
        keys[f"tasks.{split}"] = [here[name] for name in names]
        record((limited(load(here[name]), cfg.tasks.limits) for name in names), folder / "experiments")
    keys["sandbox.recorded"] = str(folder / "experiments")
    said = [model, "experiments: recorded ones that nobody ran; rewards say nothing"]
    return keys, said + ([f"data: small tables under the names of {', '.join(stood_in)}"] if stood_in else [])


def _task(name: str, folder: Path, number: int) -> str:
    """The name of a task that is here, or the folder of one that stands in for it."""
    plain = name.partition("@")[0]
    if plain in builtin_tasks():
        return name
    named = sources.split(plain)
    target = folder / PurePosixPath(named[1] if named else plain).name
    base = STAND_INS[number % len(STAND_INS)]
    prepared = load(base)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(prepared.env_dir.parent, target)
    (target / "scripts/prepare.py").unlink(missing_ok=True)  # it has run
    stated = yaml.safe_load((BUILTIN / base / "task.yaml").read_text())
    if named and named[0] == "mlagentbench":
        stated["actions"] = "mlagentbench"
    (target / "task.yaml").write_text(yaml.safe_dump(stated))
    return f"{target}{name[len(plain) :]}"


def record(tasks: Iterable[Task], folder: Path) -> None:
    """Write experiments of each task as a cache holds them: its unchanged script's, better and worse ones, failures."""
    store = Store(folder)
    for task in tasks:
        sign, best = task.direction.sign, 1.0 if task.m_best is None else task.m_best
        width = 0.3 * max(abs(best), 0.1)
        start = best - sign * width
        key = content_key(task, {task.script: (task.env_dir / task.script).read_text()})
        scores = {key: 0.0, "worse": -0.2, "better": 0.3, "good": 0.7, "best": 1.0}
        experiments = {
            name: Experiment(Outcome.EDITED, start + sign * share * width, "", Durations(execute=1.0))
            for name, share in scores.items()
        }
        experiments["error"] = Experiment(Outcome.SCRIPT_ERROR, None, "NameError: name 'x'", Durations(execute=0.5))
        for name, experiment in experiments.items():
            store.write(f"{task.id}/{name}-rehearsal.json", msgspec.json.encode(experiment))


def tiny_model(path: str, folder: Path) -> tuple[str, str]:
    """(folder of a random model like the one of that path, what it is): its configuration, tokenizer and template, or
    where those are not to be had a Qwen's configuration and a plain template."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    source = _files(path)
    if source:
        for file in (file for pattern in NAMES for file in source.glob(pattern)):
            if file.is_file() and not file.match(WEIGHTS):
                shutil.copyfile(file, folder / file.name)
        real = AutoConfig.from_pretrained(source).get_text_config()
        said = f"model: a tiny random {real.model_type} in the place of {path}, with its tokenizer and template"
    else:
        kind = "qwen3" if "qwen3" in path.lower() else "qwen2"
        real = AutoConfig.for_model(kind, tie_word_embeddings=False, **_tokenizer(folder))
        said = f"model: a tiny random {kind} with a plain template and tokenizer, since {path} is not to be had here"
    kept = ("vocab_size", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    same = {name: value for name in kept if (value := getattr(real, name, None)) is not None}
    longest = getattr(real, "max_position_embeddings", 32768)
    shape = AutoConfig.for_model(real.model_type, **SHAPE, **same, max_position_embeddings=longest)
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder)
    return str(folder), said


def _files(path: str) -> Path | None:
    """A folder with the model's configuration and tokenizer; None where it is not to be had."""
    from huggingface_hub import snapshot_download

    if path.startswith("builtin:"):
        from actors.policy.model import resolve

        return resolve(path)
    if Path(path).expanduser().is_dir():
        return Path(path).expanduser()
    try:
        found = Path(snapshot_download(path, allow_patterns=list(NAMES)))
    except Exception:  # of the hub, of the network, or since it is no hub id
        return None
    return found if (found / "config.json").is_file() else None


def _tokenizer(folder: Path) -> Mapping[str, int]:
    """Write a tokenizer of this project's texts with a plain template; what a configuration has to know of it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    of_texts, pre = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False)
    of_texts.pre_tokenizer, of_texts.decoder = pre, decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=pre.alphabet(), special_tokens=special)
    of_texts.train([*sorted(map(str, BUILTIN.glob("*/env/train.py"))), str(Path(__file__))], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_texts, eos_token=special[2], pad_token=special[0])
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return {"vocab_size": len(tokenizer), "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 0}


def settings(cfg: Any, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as a tree for a config file, with these keys."""
    from omegaconf import OmegaConf

    tree: Any = OmegaConf.to_container(cfg, enum_to_str=True)
    for name, value in keys.items():
        *sections, key = name.split(".")
        part = tree
        for section in sections:
            part = part[section]
        part[key] = value
    return tree
