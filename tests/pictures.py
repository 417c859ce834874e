"""`make pictures ARGS=RUN`: the pictures of the documents, `terminal.png` and `report.png`, of what a real run left.

Invariant: what is pictured is the run's own: its last status and its evaluation as `make train` shows them, and the
edit of its last learner steps that taught most, opened in its report.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image, ImageChops
from rich.console import Console

from envs.errors import FAILURES, UserError
from envs.records import Outcome
from learner.evaluation import evaluation
from learner.figures.action_text import visible
from learner.reporting.report import write_report
from learner.run import panel, status, transitions
from tests.documents import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLUMNS, MESSAGES, SECONDS = 140, 3, 60
WIDTH, HEIGHT = 1180, 2400
"""Of the report's window; what is below the page is cut off."""
ALONE = """<script>setTimeout(() => {
  const open = document.querySelector(".t[open]"), rows = [...document.querySelectorAll(".t")], at = rows.indexOf(open);
  for (const part of document.querySelectorAll("header, footer, main > *")) {
    if (part.id !== "transitions-head" && !part.contains(open)) part.remove();
  }
  rows.forEach((row, i) => { if (i < at - 6 || i > at + 1) row.remove(); });
  scrollTo(0, 0);
}, 3000);</script></body>"""
"""Leaves the heading, the filters and the transitions around the one that is open."""


class PictureError(UserError):
    """What cannot be pictured; the message says what is missing."""


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, or 1 where something is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder, as runs/quickstart")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the pictures (default: docs)")
    options = parser.parse_args(arguments)
    try:
        for made in (terminal(options.run, options.out), report(options.run, options.out)):
            print(made)
    except FAILURES as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def terminal(run_dir: Path, out: Path) -> Path:
    """The last panel of the run and its evaluation, as a terminal shows them. Raises PictureError."""
    now = status.of(run_dir)
    if now is None:
        raise PictureError(f"{run_dir} holds no run (no status.json): give a run's folder, as runs/quickstart")
    console = Console(width=COLUMNS, record=True, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(panel.panel(now, now.written, MESSAGES))
    if (results := run_dir / "evaluation.json").is_file():
        console.print(evaluation.tables(json.loads(results.read_text())))
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder, "terminal.svg")
        drawn.write_text(console.export_svg(title="make train"))
        width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn.read_text()).groups()
        return shot(f"file://{drawn}", round(float(width)), round(float(height)), out / "terminal.png")


def report(run_dir: Path, out: Path) -> Path:
    """A transition in the run's report. Raises PictureError, ReportError."""
    columns = ["step", "id", "outcome", "advantage"]
    taught = [
        row
        for row in transitions.read(run_dir, columns)
        if row["outcome"] == Outcome.EDITED and row["advantage"] is not None
    ]
    if not taught:
        raise PictureError(f"{run_dir} has no edit that was trained on: nothing to open in the report")
    last = max(row["step"] for row in taught)
    best = max((row for row in taught if row["step"] == last), key=lambda row: row["advantage"])
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(run_dir, Path(folder, "report.html"))
        whole = page.read_text().replace("Content-Security-Policy", "no-policy")  # what is injected is ours
        page.write_text(whole.replace("</body>", ALONE))
        address = urlencode({"id": visible(best["id"])})
        file = shot(f"file://{page}#{address}", WIDTH, HEIGHT, out / "report.png")
    picture = Image.open(file).convert("RGB")
    below = Image.new("RGB", picture.size, picture.getpixel((0, HEIGHT - 1)))
    _, _, _, bottom = ImageChops.difference(picture, below).getbbox() or (0, 0, 0, HEIGHT)
    picture.crop((0, 0, WIDTH, min(HEIGHT, bottom + 12))).quantize(128).save(file, optimize=True)
    return file


def shot(address: str, width: int, height: int, file: Path) -> Path:
    """A picture of a page, written to the file."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        raise PictureError(f"there is no browser here: install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
            "--virtual-time-budget=10000", f"--user-data-dir={profile}", f"--window-size={width},{height}",
            f"--screenshot={file.resolve()}", address,
        ]  # fmt: skip
        try:
            subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
        except subprocess.SubprocessError as error:
            raise PictureError(f"{browser} took no picture: {error}") from error
    return file


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
