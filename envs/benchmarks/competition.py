"""What tasks that are made of competitions have in common: data to see, a sample submission to start from, a grader.

A competition has no script of its own, so the agent starts from one that hands in the sample submission. Invariant: of
a package, the agent sees the files that `write` is given to show and no others.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ANSWERS = "answers.csv"
SCRIPT = """import pandas as pd

# The sample submission, as it is: replace it by the predictions of a model.
pd.read_csv({sample!r}).to_csv("submission.csv", index=False)
"""


def write(
    folder: Path, shown: Path, sample: str, stated: Mapping[str, Any], scripts: Mapping[str, str | Path],
    hidden: Collection[str] = (),
) -> None:  # fmt: skip
    """Fill the folder of a task.

    shown: folder that the agent sees; hidden: names in there that it does not. sample: path in it, or that
    `folder`/env is given later, of the sample submission. stated: the content of task.yaml. scripts: file in scripts/
    → its text, or the file to copy.
    """
    shutil.copytree(shown, folder / "env", copy_function=_link_or_copy, ignore=shutil.ignore_patterns(*hidden))
    for path in (folder / "env", *(folder / "env").rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    (folder / "scripts").mkdir()
    (folder / "env/train.py").unlink(missing_ok=True)  # it may be the package's own, by a hard link
    (folder / "env/train.py").write_text(SCRIPT.format(sample=sample), encoding="utf-8")
    (folder / "task.yaml").write_text(yaml.safe_dump(dict(stated), sort_keys=False), encoding="utf-8")
    for name, content in scripts.items():
        if isinstance(content, Path):
            shutil.copyfile(content, folder / "scripts" / name)
        else:
            (folder / "scripts" / name).write_text(content, encoding="utf-8")


def digest(maker: str, texts: Iterable[str | bytes], files: Iterable[Path], relative_to: Path) -> str:
    """Of all that a task is made from: the module that makes it, texts, and of files the names, sizes and times; of a
    link also where it leads, which may be a place that is not here."""
    found = hashlib.sha256(Path(maker).read_bytes() + Path(__file__).read_bytes())
    for text in texts:
        found.update(text.encode() if isinstance(text, str) else text)
    for path in files:
        about = path.stat() if path.exists() else path.lstat()
        if path.is_symlink():
            found.update(os.fsencode(os.readlink(path)))
        found.update(f"{os.path.relpath(path, relative_to)}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    return found.hexdigest()[:16]


def _link_or_copy(source: str, target: str) -> None:
    """A link where experiments, which run as another user, may read the file, and where it is on the same disk."""
    source = os.path.realpath(source)  # of one that is a link, a hard link would be one too
    try:
        if os.stat(source).st_mode & stat.S_IROTH:
            os.link(source, target)
            return
    except OSError:  # another disk
        pass
    shutil.copyfile(source, target)
    os.chmod(target, 0o644)
