"""A list of packages is known by all that it says, and one that cannot be read is told in a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from envs.sandbox import requirement_files
from envs.sandbox.requirement_files import RequirementsError, digest, find


def listed(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return folder / "a.txt"


def test_what_is_installed_makes_another_list_and_what_is_not_does_not(tmp_path):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "pandas").mkdir()  # a project may have folders that are called as packages are
    (tmp_path / "one.whl").write_text("1")
    first = {
        "a": "--no-index\n--find-links wheels\n-r b.txt\n./one.whl\nnumpy==2.3.5 \\\n  --hash=sha256:1\n",
        "b": "--constraint=c.txt\npandas\n", "c": "scipy<2\n-r a.txt\n",
    }  # fmt: skip
    before = digest(listed(tmp_path, **first))
    assert digest(listed(tmp_path, **{**first, "b": "# why\n--constraint=c.txt\n\npandas   # here\n"})) == before
    seen = {before}
    for changed in ({"a": first["a"] + "scipy\n"}, {"b": "pandas<3\n"}, {"c": "scipy<1\n"}):
        seen.add(digest(listed(tmp_path, **{**first, **changed})))
    listed(tmp_path, **first)
    (tmp_path / "one.whl").write_text("12")
    seen.add(digest(tmp_path / "a.txt"))
    (tmp_path / "wheels" / "two.whl").write_text("2")
    seen.add(digest(tmp_path / "a.txt"))
    assert len(seen) == 6


def test_a_list_that_is_none_is_told_in_a_line(tmp_path):
    (tmp_path / "empty.txt").write_text("# later\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "outer.txt").write_text("-r inner.txt\n")
    (tmp_path / "project.txt").write_text("./wheels\n")
    (tmp_path / "wheels").mkdir()
    for name, said in {
        "papers": "there is no list of packages papers: sets of packages are paper, and a file is named by more than a",
        f"{tmp_path}/none.txt": "none.txt: give a requirements file that this machine has",
        f"{tmp_path}/empty.txt": "empty.txt lists no package",
        f"{tmp_path}/binary.txt": "binary.txt cannot be read as a list of packages",
        f"{tmp_path}/project.txt": "project.txt: ./wheels: a project cannot be listed: name a wheel of it",
        f"{tmp_path}/outer.txt": "inner.txt cannot be read as a list of packages",
    }.items():
        with pytest.raises(RequirementsError, match=said.replace(".", r"\.")) as refused:
            digest(find(name))
        assert "\n" not in str(refused.value)


def test_the_ready_sets_are_pinned_as_what_experiments_have_otherwise():
    """Scores agree whichever is chosen."""
    root = Path(requirement_files.__file__).parents[2]
    lines = (root / "requirements-cpu.txt").read_text().splitlines()
    own = dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    for line in requirement_files._lines(find("paper")):
        (pin,) = Requirement(line).specifier
        name = Requirement(line).name
        assert pin.operator in ("==", "===") and own.get(name, pin.version) == pin.version, line
