"""Reads a command line into a configuration that can be run: `load`.

Precedence: dataclass defaults < what `size` and `gpus` choose (learner/config/dial.py) < `config=NAME|PATH` (a YAML in
learner/config/presets/ or anywhere) < arguments, and in each of the two last `rl.preset`
(learner/config/objectives.py) < other keys; of a run that is resumed: what it recorded <
arguments (learner/config/midway.py says which of these are refused).
Invariants: an unknown key, a wrong type, an impossible combination or a part from outside that cannot be used raises
`ConfigError`, naming the key, before anything is started; nothing heavy is imported, so that `--help` is instant.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from envs.errors import UserError
from learner.config import dial, midway
from learner.config.defaults import defaults, settle
from learner.config.objectives import PRESETS
from learner.config.rules import impossible
from learner.config.schema import CONFIGS, Config, fields, type_name
from learner.config.sockets import refused

RECORD = "config.yaml"
"""File of a run's folder: its configuration."""
READ_BY_OMEGACONF = ("${", "???")
"""Signs of references to other keys and of values to come: looked up only when the value is used, in the middle of a
run. In a config file they are filled in when it is read."""


class ConfigError(UserError):
    """A configuration that cannot be run; the message names the key and what to do."""


def load(arguments: Sequence[str], say: Callable[[str], None] = lambda line: None) -> Config:
    """The configuration of a command line, read-only; `--help` prints every key instead and exits.

    say: is told what `size` and `gpus` chose, and what a resumed run does not take from a config file.

    Raises:
        ConfigError: an argument, key, value or combination of values cannot be used.
    """
    if {"-h", "--help"} & set(arguments):
        from learner.config.help import show  # rich is not needed otherwise

        show()
        sys.exit(0)
    cfg = defaults()
    of_files: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"{argument}: arguments are config=NAME|PATH or key=value; --help lists the keys")
        if name == "config":
            settings = list(_flatten(_read(value)))
            _assign_all(cfg, settings, f"{value}: ")
            of_files |= dict.fromkeys((inner for inner, _ in settings), argument)
    given = [argument.partition("=")[::2] for argument in arguments if not argument.startswith("config=")]
    _assign_all(cfg, given)
    if cfg.run.resume:
        asked, cfg = cfg, _resumed(cfg, given)
        for name, kept, other in midway.differences(cfg, asked):
            if name in of_files:
                say(f"{name} stays {kept}, as the run recorded it: {of_files[name]} has {other}")
    elif cfg.size or cfg.gpus:
        try:
            choice, said = dial.chosen(cfg, {*of_files, *(name for name, _ in given)})
        except dial.DialError as error:
            raise ConfigError(str(error)) from error
        for name, value in choice.items():
            assign(cfg, name, value)
        say(said)
    settle(cfg)
    if reason := impossible(cfg) or refused(cfg):
        raise ConfigError(reason)
    OmegaConf.set_readonly(cfg, True)
    return cfg


def _assign_all(cfg: DictConfig, settings: Sequence[tuple[str, Any]], where: str = "") -> None:
    """Assign settings in order; those that `rl.preset` stands for come first, so that what is given beside it stays."""
    for name, value in settings:
        if name == "rl.preset":
            assign(cfg, name, value, where)
            for key, setting in PRESETS.get(cfg.rl.preset, {}).items():
                assign(cfg, f"rl.{key}", setting)
    for name, value in settings:
        assign(cfg, name, value, where)


def _resumed(asked: DictConfig, given: Sequence[tuple[str, str]]) -> DictConfig:
    """What the run recorded that is to be resumed, with the arguments on top; asked: as a new run would have it."""
    file = Path(asked.run.dir) / asked.run.name / RECORD
    if not file.is_file():
        raise ConfigError(
            f"run.resume=true, but {file.parent.resolve()} holds no run (no {RECORD}): name another by run.name and "
            "run.dir, or leave run.resume out"
        )
    if turned := [name for name, _ in given if name in dial.KEYS]:
        raise ConfigError(
            f"{turned[0]} chooses what a new run has: a resumed one keeps that; give the keys themselves that are to "
            "change, such as learner.ranks and actors.count"
        )
    before = defaults()
    for name, setting in _flatten(_read(str(file))):
        assign(before, name, setting, f"{file}: ")
    cfg = copy.deepcopy(before)
    _assign_all(cfg, [*given, *((name, OmegaConf.select(asked, name)) for name in midway.IDENTITY)])
    if reason := midway.refused(before, cfg) or midway.behind(file.parent, cfg):
        raise ConfigError(reason)
    return cfg


def _read(name: str) -> dict[str, Any]:
    """The content of the config file of that name or path."""
    file = CONFIGS / f"{name}.yaml"
    if not file.is_file():
        file = Path(name)
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
        raise ConfigError(f"config={name}: there is no such file, and no config of that name; known are {known}")
    try:
        tree = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except yaml.YAMLError as error:  # whose message would show what is in the file
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise ConfigError(f"{file} is not a config file: line {line} is not YAML") from error
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"{file} is not a config file: {error}") from error
    if not isinstance(tree, dict) or not all(re.fullmatch(r"[\w.]+", str(name)) for name in tree):
        raise ConfigError(f"{file} is not a config file: its top level must be sections, such as `rl:`")
    return {str(name): part for name, part in tree.items()}


def _flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    name = prefix.rstrip(".")
    if not isinstance(tree, dict) or any(name == key and get_origin(kind) is dict for key, _, kind in fields()):
        yield name, tree
        return
    for name, value in tree.items():
        yield from _flatten(value, f"{prefix}{name}.")


def assign(cfg: DictConfig, name: str, value: Any, where: str = "") -> None:
    """Set a key from a YAML value or from the text of an argument; where: what the value comes from.

    Raises:
        ConfigError: there is no such key, or it cannot have such a value.
    """
    known = {name: (item, kind) for name, item, kind in fields()}
    within = next(
        (key for key, (_, kind) in known.items() if get_origin(kind) is dict and name.startswith(f"{key}.")), ""
    )
    if name not in known and not within:
        last = f".{name.rpartition('.')[2]}"
        near = [key for key in known if key.endswith(last) or key.startswith(f"{name}.")][:3]
        near = near or difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {' or '.join(near)}?" if near else "--help lists the keys"
        raise ConfigError(f"{where}unknown key {name}: {hint}")
    item, kind = known[within or name]
    if get_args(kind) and isinstance(value, str):
        value = _parse_list(value)
    if kind is int and isinstance(value, float):
        value = str(value)  # OmegaConf would cut off the fraction
    if any(sign in str(value) for sign in READ_BY_OMEGACONF):
        raise ConfigError(f"{where}{name}={value}: ${{…}} and ??? are not filled in here: write out what is meant")
    try:
        OmegaConf.update(cfg, name, value)
    except OmegaConfBaseException as error:
        example = ", such as {a: b}" if get_origin(kind) is dict else ", such as [a,b]" if get_args(kind) else ""
        raise ConfigError(f"{where}{name}={value}: expected {type_name(kind)}{example}") from error
    if not within:
        _check_value(f"{where}{name}", OmegaConf.select(cfg, name), item)


def _parse_list(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # the latter of what looks like a date and is none
        return text


def _check_value(name: str, value: Any, item: dataclasses.Field) -> None:
    """A string that has a default cannot be empty: empty means something only where it is the default."""
    rules = item.metadata
    for one in value if isinstance(value, ListConfig) else [value]:
        if one == "" and item.default != "":
            raise ConfigError(f"{name}={value} is empty")
        if isinstance(one, int | float) and not isinstance(one, bool):
            _check_number(name, one, value, rules)
    if rules["choices"]:
        values = value if isinstance(value, ListConfig) else [value]
        unknown = [word for word in values if word not in rules["choices"] and not (rules["socket"] and ":" in word)]
        if unknown:
            path = ", or an import path package.module:Name" if rules["socket"] else ""
            raise ConfigError(f"{name}={value}: choose one of {', '.join(rules['choices'])}{path}")


def _check_number(name: str, number: float, value: Any, rules: Mapping[str, Any]) -> None:
    if not math.isfinite(number):
        raise ConfigError(f"{name}={value} must be a finite number")
    least = rules["least"]
    if not (number > 0 if rules["positive"] else number >= least):
        raise ConfigError(f"{name}={value} must be {'above 0' if rules['positive'] else f'at least {least}'}")
    if not number <= rules["maximum"]:
        raise ConfigError(f"{name}={value} must be at most {rules['maximum']}")
