"""Fixtures that several rooms' tests share, and what a run says of the tests that it skipped."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests import needs

# CI tries the same examples each time; new ones are for whoever works on the code, and is there to look into them.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("here", deadline=None)  # how long an example takes is the load's
settings.load_profile("ci" if os.environ.get("CI") else "here")
# Ray starts a worker for each core ahead. Ranks and actors have an environment of their own, and so none of these.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Ray's workers make way for whatever else runs, which is other tests there: they would starve.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (as Ray reads it)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # there are as many tests as cores: threads would wait for each other

TOGETHER = {"tests/chaos/": "whole runs", "tests/e2e/": "whole runs", "tests/contract/learner/": "learner"}
"""Folders whose files follow each other: each a run with engine, ranks and cluster; or after the same imports."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-all", action="store_true", help="fail what is skipped for want of one of tests.needs")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers a file's tests stay together, and those of some folders do."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((scope for folder, scope in TOGETHER.items() if file.startswith(folder)), file)

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Tests and what they import live to the end: the garbage collector need not look through them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest in one piece comes first where several workers share the tests: none is left alone with it."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        folders = (*TOGETHER, "tests/contract/", "tests/unit/")
        items.sort(key=lambda item: next((n for n, of in enumerate(folders) if item.nodeid.startswith(of)), 0))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.skipped and item.config.getoption("require_all") and not hasattr(report, "wasxfail"):
        reason = _reason(report)
        if need := needs.lacking(reason):
            report.outcome = "failed"
            report.longrepr = f"{reason}\n--require-all: {need.name} must be there: {need.remedy}"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if skipped := terminalreporter.getreports("skipped"):
        terminalreporter.section(f"{len(skipped)} tests were skipped")
        for line in needs.summary(_reason(report) for report in skipped):
            terminalreporter.write_line(line)


def _reason(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that engine and learner load in no time: a random two-layer Llama with a real tokenizer."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from actors.policy.model import BUILTIN, resolve

    folder = tmp_path_factory.mktemp("tiny-model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(resolve(BUILTIN) / name, folder)
    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8192, tie_word_embeddings=True, dtype=torch.bfloat16, **ends,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    return folder
