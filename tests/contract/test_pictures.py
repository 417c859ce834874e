"""The pictures of the documents can be made of any run."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from tests import pictures
from tests.unit.fake_run import make

pytestmark = pytest.mark.skipif(not any(map(shutil.which, pictures.BROWSERS)), reason="no Chromium here: no pictures")


def test_a_run_is_pictured_and_what_is_none_is_named(tmp_path, capsys):
    run = make(tmp_path / "quickstart", steps=2, actions=4)
    assert pictures.main([str(run), "--out", str(tmp_path)]) == 0
    for name, least in (("terminal.png", (1200, 500)), ("report.png", (pictures.WIDTH, 500))):
        picture = Image.open(tmp_path / name).convert("L")
        assert all(size >= wanted for size, wanted in zip(picture.size, least, strict=True))
        assert len(set(picture.resize((60, 60)).getdata())) > 20, f"{name} is blank"
    assert pictures.main([str(tmp_path)]) == 1 and "holds no run" in capsys.readouterr().err
