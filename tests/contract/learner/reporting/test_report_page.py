"""The report in a real browser: it opens, filters and links, whatever a log holds."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest

from actors import acting
from actors.acting import Acts
from learner.reporting.report import write_report
from learner.run import transitions
from tests.unit.fake_run import make
from tests.unit.learner.reporting.test_live import CAME_OF_IT, running, served, wait_for
from tests.unit.learner.reporting.test_report import HOSTILE, Page, make_hostile

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here: the report is not opened in a browser")


def opened(file: Path, **address: object) -> Page:
    """As `followed`; address: what stands behind the `#`."""
    return followed(f"file://{file}#{urlencode(address)}", file.parent)


def followed(address: str, folder: Path) -> Page:
    """The page as it stands after its script has run."""
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=10000",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", address,
    ]  # fmt: skip
    return Page(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


def shown(page: Page, css_class: str) -> int:
    return sum(css_class in a.get("class", "").split() for _, a in page.elements)


def test_of_ten_thousand_transitions_only_those_that_are_looked_at_are_rendered(tmp_path):
    file = write_report(make(tmp_path / "long", steps=20, actions=125))
    assert file.stat().st_size < 4e6
    page = opened(file)
    assert "1–50 of 10\u202f288" in page.text, "of 20 steps and three evaluations"
    assert shown(page, "t") == 50
    assert {a.get("data-key") for a in page.of("select")} >= {"task", "outcome", "step", "actor"}
    assert "script error (" in page.text and "actor-1 (" in page.text


def test_a_transition_is_opened_by_its_address(tmp_path):
    run_dir = make(tmp_path / "run", steps=2)
    rows = list(transitions.read(run_dir))
    row = next(row for row in rows if row["action"] == "edit" and len(row["version_spans"]) == 2)
    page = opened(write_report(run_dir), id=row["id"])
    assert len([a for a in page.of("details", "t") if "open" in a]) == 1
    for text in ("HistGradientBoostingClassifier", "You improve a machine-learning script", f"{row['ratio']:.4f}"):
        assert text in page.text
    assert page.of("i", "add") and page.of("i", "del") and page.of("pre", "log versions")


def test_hostile_text_does_not_run(tmp_path):
    run_dir = make_hostile(make(tmp_path / "run", steps=2))
    page = opened(write_report(run_dir), id=HOSTILE.replace("\x1b[31m", "").replace("\u202e", "\\u202e"))
    assert [a for a in page.of("details", "t") if "open" in a]  # it was unpacked, and made into elements
    assert page.text.count('document.title="owned"') > 6
    assert page.title == "run: training report"
    assert not page.of("img") and len(page.scripts) == 1


def test_an_address_tells_a_search_and_filters_and_attempts_of_evaluations_are_found(tmp_path):
    run_dir = make(tmp_path / "run", steps=3)
    file = write_report(run_dir)
    tried = [row for row in transitions.read_part(run_dir, "base") if row["outcome"] == "invalid"]
    page = opened(file, step="base", outcome="invalid", q="USE a Forest")
    assert f"1–{min(50, len(tried))} of {len(tried)}" in page.text and "breast_cancer (" in page.text
    assert "use a forest" in tried[0]["text"] and shown(page, "t") == min(50, len(tried))
    assert "none" in opened(file, q="no log has this", task="wine").text
    page = opened(file, id=f"rl/{transitions.read_part(run_dir, 'rl')[0]['id']}", task="digits")
    assert len([a for a in page.of("details", "t") if "open" in a]) == 1


def test_the_page_that_follows_a_run_unpacks_what_was_tried_and_asks_for_a_token(tmp_path, monkeypatch):
    monkeypatch.setattr(acting, "INTERVAL", 0.005)
    run_dir, acts = make_hostile(make(tmp_path / "run", steps=2)), Acts("actor-0", tmp_path / "run")
    with running(run_dir), served(run_dir) as server, acts.doing("group-000007/001", "wine"):
        acts.tried(HOSTILE, "wine", HOSTILE, dataclasses.replace(CAME_OF_IT, log_tail=HOSTILE), 0.5)
        wait_for(lambda: server.live.now()["tried"])
        page = followed(f"{server.address}&{urlencode({'id': 'base/iris/0'})}", tmp_path)
        assert page.title == "run: running" and 0 < shown(page, "t") <= 15 + 1
        assert page.of("img") and all(a["src"].startswith("blob:") for a in page.of("img")), "plots alone"
        assert len([a for a in page.of("details", "t") if "open" in a]) == 1
        assert "You improve a machine-learning script" in page.text
        assert "actor-0 · group-000007/001" in page.text and page.text.count('document.title="owned"') >= 3
        page = followed(server.address.partition("#")[0], tmp_path)
        assert "needs the token" in page.text and not shown(page, "t")
    acts.close()


@pytest.mark.parametrize("width", [800, 390])
def test_no_part_of_the_page_is_wider_than_the_window(tmp_path, width):
    run_dir = make(tmp_path / "run", steps=2)
    file = write_report(run_dir)
    tell = "parent.postMessage(`${innerWidth} ${document.documentElement.scrollWidth}`, '*')"
    measuring = file.read_text().replace("Content-Security-Policy", "no-policy")
    file.write_text(measuring.replace("</body>", f"<script>setTimeout(() => {tell}, 2000)</script></body>"))
    address = urlencode({"id": next(transitions.read(run_dir))["id"]})
    frame = tmp_path / "frame.html"  # a window of its own is never below 500 pixels
    frame.write_text(
        "<script>onmessage = (told) => { document.title = told.data; };</script>"
        f'<iframe width="{width}" height="900" frameborder="0" src="run/{file.name}#{address}"></iframe>'
    )
    window, needed = map(int, opened(frame).title.split())
    assert window == width and needed <= window
