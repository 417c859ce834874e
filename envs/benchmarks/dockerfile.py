"""What a Dockerfile puts where, as far as no Docker Engine is needed for it: it copies files, and asks for no more than
a sandbox has.

Invariant: what is read but not understood is `NotPlain`, whose message names the line; nothing is run.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

BASES = re.compile(
    r"(?:docker\.io/)?(?:library/)?(?:python|debian|ubuntu)(?::[\w.-]+)?(?:@sha256:\w+)?(?: AS \w+)?", re.I
)
"""Images that have what a sandbox has: a system with bash, and Python."""
THERE = frozenset({"numpy", "pandas", "scikit-learn", "scipy", "joblib"})
"""Packages that a sandbox has, whatever `sandbox.packages` says."""
PASSED_OVER = frozenset(
    {"LABEL", "MAINTAINER", "EXPOSE", "USER", "CMD", "ENTRYPOINT", "SHELL", "STOPSIGNAL", "HEALTHCHECK"}
)
"""They say how a container is started, which is not how sandboxes are, or nothing that tests see."""
INSTALLS = re.compile(r"(?:python3? -m )?(?:uv )?pip3? install (?P<wanted>[^&|;<>]*)")
MAKES = re.compile(r"mkdir (?:-p )?[\w./ -]+")
OPTIONS = re.compile(r"--(?:no-cache-dir|no-cache|quiet|upgrade|system|break-system-packages)|-[qU]")
OURS = ("/dev", "/logs", "/proc", "/sys", "/task", "/tests", "/tmp", "/workspace")
"""Every sandbox has files of its own there."""
SYSTEM = (*OURS, "/bin", "/boot", "/etc", "/lib", "/lib64", "/packages", "/sbin", "/usr")
"""No task's files can lie there in a sandbox that has the host's system."""


class NotPlain(ValueError):
    """A Dockerfile, or a working folder, that a sandbox cannot stand in for; the message says what it asks for."""


@dataclass
class Plain:
    """What a Dockerfile makes."""

    workdir: str
    files: dict[str, Path] = field(default_factory=dict)
    """Path relative to the working folder → the file."""
    env: dict[str, str] = field(default_factory=dict)


def read(file: Path, workdir: str = "") -> Plain:
    """What the Dockerfile makes of the folder that it lies in; workdir: that the task states beside it.

    Raises:
        NotPlain: it asks for more than a sandbox has, or puts files where no task's can lie.
        OSError: it cannot be read.
    """
    at, copied, env = "/", {}, {}
    lines = _instructions(file.read_text(encoding="utf-8"))
    if sum(name == "FROM" for name, _ in lines) != 1:
        raise NotPlain("has several stages, or none")
    for name, rest in lines:
        if name == "FROM" and BASES.fullmatch(rest):
            continue
        if name == "WORKDIR":
            at = posixpath.normpath(posixpath.join(at, rest.strip("\"'")))
        elif name in ("COPY", "ADD"):
            copied.update(_copied(file.parent, rest, at))
        elif name == "ENV":
            env.update(_variables(rest))
        elif not (name in PASSED_OVER or (name == "RUN" and _is_there(rest))):
            raise NotPlain(f"asks for `{name} {' '.join(rest.split())[:60]}`")
    workdir = workdir or at
    require_place(workdir, SYSTEM)
    if outside := [place for place in copied if not place.startswith(f"{workdir}/")]:
        raise NotPlain(f"puts a file at {outside[0]}, outside its working folder {workdir}")
    return Plain(workdir, {place[len(workdir) + 1 :]: source for place, source in copied.items()}, env)


def require_place(workdir: str, taken: Collection[str]) -> None:
    """Refuse a working folder that lies in one of these, or is all there is.

    Raises:
        NotPlain: names it.
    """
    if not re.match("/[^/]", workdir) or any(f"{workdir}/".startswith(f"{one}/") for one in taken):
        raise NotPlain(f"works in {workdir}, where a sandbox has its own files")


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\[ \t]*\n", " ", "\n".join(lines))
    found = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, _, rest in found]


def _is_there(command: str) -> bool:
    """Whether a sandbox has what these commands would bring."""
    return all(_brings_nothing(one.strip()) for one in command.split("&&"))


def _brings_nothing(command: str) -> bool:
    if found := INSTALLS.fullmatch(command):
        wanted = [word for word in shlex.split(found["wanted"]) if not OPTIONS.fullmatch(word)]
        return all(re.split(r"[=<>~!\[]", word)[0].lower().replace("_", "-") in THERE for word in wanted)
    return bool(MAKES.fullmatch(command))


def _copied(context: Path, rest: str, at: str) -> dict[str, Path]:
    """Absolute place → file of a COPY."""
    if "<<" in rest or "$" in rest:
        raise NotPlain(f"copies `{rest[:60]}`")
    words = [str(word) for word in json.loads(rest)] if rest.startswith("[") else shlex.split(rest)
    flags = [word for word in words if word.startswith("--")]
    *sources, target = [word for word in words if word not in flags]
    if any(not flag.startswith(("--chown", "--chmod", "--link")) for flag in flags) or not sources:
        raise NotPlain(f"copies `{rest[:60]}`")
    place, found = posixpath.normpath(posixpath.join(at, target)), {}
    folder = target.endswith("/") or target in (".", "..") or len(sources) > 1 or place == at
    for source in sources:
        if not (matches := _matches(context, source)) or "://" in source:
            raise NotPlain(f"copies {source}, which is not there")
        for match in matches:
            if not match.resolve().is_relative_to(context.resolve()):
                raise NotPlain(f"copies {source}, which lies elsewhere")
            if match.is_dir():
                inner = (path for path in sorted(match.rglob("*")) if path.is_file() and not path.is_symlink())
                found.update({posixpath.join(place, path.relative_to(match).as_posix()): path for path in inner})
            else:
                found[posixpath.join(place, match.name) if folder or len(matches) > 1 else place] = match
    return found


def _matches(context: Path, source: str) -> list[Path]:
    pattern = posixpath.normpath(source.lstrip("/") or ".")
    return [context] if pattern == "." else sorted(context.glob(pattern))


def _variables(rest: str) -> dict[str, str]:
    words = shlex.split(rest)
    if "$" in rest or not words:
        raise NotPlain(f"sets `ENV {rest[:60]}`")
    if "=" not in words[0]:
        return {words[0]: " ".join(words[1:])}
    return dict(word.split("=", 1) for word in words if "=" in word)
