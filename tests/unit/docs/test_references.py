"""What the documents name is there: pages and headings behind links, files, targets of make, keys and their values."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from actors.solve import Settings, SolveError, read_settings
from learner.config.defaults import defaults
from learner.config.load import ConfigError, assign
from learner.config.schema import fields
from tests import documents
from tests.documents import ROOT

DOCUMENTS = documents.documents()
NOW = [document for document in DOCUMENTS if document.name != "CHANGELOG.md"]
"""Those that tell of the present: what a changelog names may have gone."""
KEYS = [name for name, _, _ in fields()]
SECTIONS = {name.rpartition(".")[0] for name in KEYS}
TOPS = {path.parts[0] for path in documents.tracked() if len(path.parts) > 1}
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
LEFT_OPEN = re.compile(r"[…*]|^[A-Z_]+$")
"""A value, or a part of a path, that stands for any."""
ENDINGS = (".py", ".sh", ".md", ".toml", ".in", ".cff")
"""Of files of ours, which are told by their name alone; of others, such as train.csv, there are many kinds."""

each = pytest.mark.parametrize("document", DOCUMENTS, ids=str)
each_of_now = pytest.mark.parametrize("document", NOW, ids=str)


def words(document: Path) -> list[str]:
    """Of inline code."""
    return [word for span in documents.spans(document) for word in span.split()]


@each
def test_a_link_leads_to_a_page_and_a_heading(document):
    for link in documents.links(document):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document.parent / path if path else ROOT / document).resolve()
        assert target.exists(), f"{link}: there is no {target.relative_to(ROOT)}"
        if anchor:
            found = documents.anchors(target.relative_to(ROOT))
            assert anchor in found, f"{link}: the headings there are {sorted(found)}"


def test_the_first_page_leads_to_every_other():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in documents.links(Path("README.md"))}
    pages = {ROOT / document for document in DOCUMENTS} - {ROOT / "README.md", ROOT / "CHANGELOG.md"}
    assert pages <= linked


@each_of_now
def test_a_block_has_a_language(document):
    assert all(block.language for block in documents.blocks(document)), "bash, if its lines are commands; else text"


@each_of_now
def test_a_file_that_is_named_is_there(document):
    names = {path.name for path in documents.tracked()}
    for word in words(document):
        path = word.rstrip("/,").removeprefix("./")
        parts = path.split("/")
        if len(parts) > 1 and parts[0] in TOPS and not any(map(LEFT_OPEN.search, parts)):
            assert (ROOT / path).exists(), f"there is no {path}"
        elif re.fullmatch(r"[\w-]+", path.rpartition(".")[0]) and path.endswith(ENDINGS):
            assert path in names, f"no file of the repository is called {path}"


@each_of_now
def test_a_target_of_make_is_one(document):
    shown = [*documents.spans(document), *(block.text for block in documents.blocks(document))]
    for name in re.findall(r"^make ([a-z-]+)", "\n".join(shown), re.MULTILINE):
        assert name in TARGETS, f"the Makefile has no {name}"


@each_of_now
def test_a_module_or_a_function_that_is_named_is_there(document):
    for word in words(document):
        dotted = re.match(rf"(?:{'|'.join(sorted(TOPS))})(?:\.\w+)+", word)
        if dotted and not (SECTIONS | set(KEYS)) & {dotted[0], dotted[0].partition("=")[0]}:
            assert pkgutil.resolve_name(dotted[0].removesuffix(".py")), word


@each_of_now
def test_a_key_is_one_and_can_have_its_value(document):
    for word in words(document):
        setting = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)+)(?:=(.+))?[,;:]?", word)
        if not setting or setting[1].partition(".")[0] not in SECTIONS or setting[1] in SECTIONS:
            continue
        if re.search(r"\.(py|html|jsonl?|ya?ml|md)$", setting[1]):
            continue
        name, value = setting[1], setting[2]
        problem = refused(name, value) if value and not LEFT_OPEN.search(value) else unknown(name)
        assert not problem, f"{word}: {problem}"


def unknown(name: str) -> str:
    solves = OmegaConf.select(OmegaConf.structured(Settings), name) is not None  # `solve` has its own, and fewer
    return "" if name in KEYS or solves else "there is no such key"


def refused(name: str, value: str) -> str:
    """Why no command takes that value."""
    try:
        assign(defaults(), name, value)
    except ConfigError as error:
        try:
            read_settings([f"{name}={value}"])
        except SolveError:
            return str(error)
    return ""
