"""A user's file as the agent sees it, and put back; notebooks among them."""

from __future__ import annotations

import json

import pytest

from actors.solving import notebook
from actors.solving.settings import SolveError
from actors.solving.source import Source

NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "metadata": {}, "source": ["# A title"]},
        {"cell_type": "code", "id": "a", "execution_count": 3, "metadata": {"tags": ["x"]},
         "outputs": [{"output_type": "stream", "text": "old"}],
         "source": ["%matplotlib inline\n", "!pip install x\n", "import math"]},
        {"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": [], "source": "%%bash\nls\n"},
        {"cell_type": "markdown", "metadata": {}, "source": "text between"},
        {"cell_type": "code", "execution_count": 4, "metadata": {}, "outputs": [],
         "source": ["x = 1\n", "display(x)\n", "print('accuracy:', x)"]},
    ],
    "metadata": {"kernelspec": {"language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}  # fmt: skip


@pytest.mark.parametrize("raw", [
    b"x = 1\r\ny = 2\r\n", b"\xef\xbb\xbfx = 1\ny = 2\n", b"x = 1\ny = 2", b"\xef\xbb\xbfx = 1\r\ny = 2",
])  # fmt: skip
def test_what_is_put_back_differs_in_what_was_changed_alone(tmp_path, raw):
    file = tmp_path / "fit.py"
    file.write_bytes(raw)
    source = Source.read(file)
    assert source.text.removesuffix("\n") == "x = 1\ny = 2"
    assert source.put_back(source.text) == raw
    assert source.put_back("x = 3\ny = 2\n") == raw.replace(b"x = 1", b"x = 3")


def test_a_notebook_is_a_script_of_its_code_and_comes_back_with_its_text(tmp_path):
    file = tmp_path / "fit.ipynb"
    file.write_text(json.dumps(NOTEBOOK))
    source = Source.read(file)
    compile(source.text, "fit.py", "exec")
    assert "# ipython: %matplotlib inline\n# ipython: !pip install x\nimport math\n" in source.text
    assert "# ipython: ls" in source.text and "title" not in source.text
    printed: list[tuple] = []
    exec(source.text, {"print": lambda *words: printed.append(words)})
    assert ("accuracy:", 1) in printed and (1,) in printed, "display prints"
    assert source.put_back(source.text) == file.read_bytes()

    changed = source.text.replace("x = 1\n", "x = 2\n").replace("# %% 4\n", "# %%\ny = 3\n\n# %% 4\n")
    back = json.loads(source.put_back(changed))
    code = ["".join(cell["source"]) for cell in back["cells"] if cell["cell_type"] == "code"]
    assert code == ["%matplotlib inline\n!pip install x\nimport math", "%%bash\nls", "y = 3",
                    "x = 2\ndisplay(x)\nprint('accuracy:', x)"]  # fmt: skip
    assert [cell["source"] for cell in back["cells"] if cell["cell_type"] == "markdown"] == [
        ["# A title"],
        "text between",
    ]
    first = back["cells"][1]
    assert (first["id"], first["metadata"], first["outputs"]) == ("a", {"tags": ["x"]}, [])
    assert {key: back[key] for key in ("metadata", "nbformat")} == {
        key: NOTEBOOK[key] for key in ("metadata", "nbformat")
    }


def test_a_line_that_begins_with_an_operator_is_no_magic():
    lines = ["print(\n", "    'accuracy: %s'\n", "    % 1\n", ")\n", "assert (\n", "    1\n", "    != 2\n", ")"]
    cell = {"cell_type": "code", "metadata": {}, "source": ["%time\n", "!ls\n", *lines]}
    script = notebook.to_script(json.dumps({"cells": [cell], "metadata": {"kernelspec": None}}))
    printed: list[str] = []
    exec(script, {"print": printed.append})
    assert printed == ["accuracy: 1"] and script.count(notebook.MAGIC) == 2


def test_a_script_without_the_cells_marks_is_a_notebook_with_one_cell(tmp_path):
    file = tmp_path / "fit.ipynb"
    file.write_text(json.dumps(NOTEBOOK))
    back = json.loads(Source.read(file).put_back("import math\nprint('accuracy:', 2)\n"))
    assert [cell["cell_type"] for cell in back["cells"]] == ["code", "markdown", "markdown"]
    assert "".join(back["cells"][0]["source"]) == "import math\nprint('accuracy:', 2)"


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("fit.py", b"x = '\xe9'\n", "is not a text file"),
        ("fit.py", "x = 1\n".encode("utf-16"), "save it as UTF-8"),
        ("fit.py", b"x = 1\n" * 10_000, "at most 40,000"),
        ("fit.ipynb", b"x = 1\n", "it is no JSON"),
        ("fit.ipynb", b"{}", "no `cells`"),
        ("fit.ipynb", b'{"cells": []}', "it has no code"),
        ("fit.ipynb", b'{"cells": [], "metadata": {"kernelspec": {"language": "R"}}}', "its language is R"),
    ],
)
def test_what_no_agent_can_edit_is_refused(tmp_path, name, raw, reason):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(SolveError, match=reason):
        Source.read(tmp_path / name)
