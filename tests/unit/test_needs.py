"""A run that lacks something says so and how to get it; where all must be there, it fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.needs import NEEDS, lacking

TESTS = Path(__file__).parents[1]
pytest_plugins = ["pytester"]
SKIPPED = """
    import pytest

    def test_in_docker():
        pytest.skip("NOT TESTED, the docker sandbox is not to be had: no engine")

    @pytest.mark.skipif(True, reason="no Chromium here: the report is not opened in a browser")
    def test_in_chromium():
        pass

    def test_of_root():
        pytest.skip("without root there is no control group")

    def test_anywhere():
        pass
"""


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    pytester.makeconftest((TESTS / "conftest.py").read_text())
    pytester.makepyfile(SKIPPED)
    return pytester.runpytest_inprocess(*options)


def test_what_was_lacking_is_counted_and_said_with_its_remedy(pytester: pytest.Pytester) -> None:
    done = run(pytester)
    done.assert_outcomes(passed=1, skipped=3)
    done.stdout.fnmatch_lines_random(["*1 not run for want of Docker Engine: *make test*", "*1 not run: without root*"])


def test_where_all_must_be_there_what_is_lacking_fails(pytester: pytest.Pytester) -> None:
    done = run(pytester, "--require-all")
    done.assert_outcomes(passed=1, skipped=1, failed=1, errors=1)  # a mark skips before the test is called
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines_random(["*--require-all: Docker Engine must*", "*Chromium must be there*"])


def test_every_need_is_some_tests() -> None:
    """A reason that is worded anew is no longer known."""
    text = "\n".join(file.read_text() for file in TESTS.rglob("test_*.py") if file.name != Path(__file__).name)
    text += "\n".join(file.read_text() for file in TESTS.rglob("conftest.py"))
    backends = [re.sub(r"\{(\w+\.)?(param|chosen)\}", backend, text) for backend in ("docker", "gvisor")]
    assert [need.name for need in NEEDS if not re.search(need.reason, "\n".join(backends))] == []
    assert lacking("NOT TESTED, the docker sandbox with PyTorch is not to be had") is None
    assert lacking("the Docker Engine, or nobody, limits the sandbox as a whole") is None
