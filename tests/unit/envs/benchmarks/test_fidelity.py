"""A task on a share of its rows."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from envs.benchmarks.fidelity import FEWEST, subsample
from envs.benchmarks.loader import TaskError, load


def test_a_csv_keeps_a_share_of_its_rows_as_they_were_written(tmp_path):
    file = tmp_path / "train.csv"
    rows = [f'{i},"a, ""{i}""",0{i}.50,' for i in range(400)]
    file.write_text("\n".join(["id,text,value,empty", *rows]) + "\n")
    subsample(file, 0.1)
    kept = file.read_text().splitlines()[1:]
    assert len(kept) == 40 and set(kept) <= set(rows)
    assert kept == sorted(kept, key=lambda row: int(row.split(",")[0])), "a series stays a series"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_every_row_that_is_kept_is_one_of_the_file_in_its_order_and_none_is_kept_twice(tmp_path, share):
    """Whatever is in it: nothing is read as missing, in another encoding, or as the end of a line."""
    texts = ["é", "NA", "null", "a\u2028b\x85c", "", "1.50"] * 50
    rows = [json.dumps({"i": i, "text": text}, ensure_ascii=False) for i, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    pd.DataFrame({"i": range(len(texts)), "text": texts}).to_csv(tmp_path / "a.csv", index=False)
    for name in ("a.jsonl", "a.csv"):
        before = (tmp_path / name).read_text(encoding="utf-8").split("\n")
        subsample(tmp_path / name, share)
        kept = (tmp_path / name).read_text(encoding="utf-8").split("\n")
        places = [before.index(row) for row in kept[:-1]]
        assert places == sorted(set(places)) and kept[-1] == ""
        assert len(places) - name.endswith("csv") == max(share * len(texts), FEWEST)


def test_lines_stay_as_they_are_with_their_ends_also_where_the_locale_knows_only_ascii(tmp_path):
    file, rows = tmp_path / "a.jsonl", '{"text": "é…"}\r\n'.encode() * FEWEST
    file.write_bytes(rows)
    program = "import pathlib, sys\nfrom envs.benchmarks.fidelity import subsample\n"
    program += "subsample(pathlib.Path(sys.argv[1]), 1.0)"
    ascii_only = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", program, file], env=ascii_only, check=True)
    assert file.read_bytes() == rows


@pytest.mark.parametrize("rows", [400, 1000])
def test_the_rows_that_stay_are_drawn_from_everywhere_at_random(tmp_path, rows):
    """Neither the first ones, which in many tables are the oldest or of one class, nor every fifth."""
    file = tmp_path / "train.csv"
    file.write_text("id\n" + "".join(f"{i}\n" for i in range(rows)))
    subsample(file, 0.2)
    kept = pd.read_csv(file)["id"].to_numpy()
    assert len(set(kept)) == len(kept) == rows // 5
    share = np.histogram(kept, bins=4, range=(0, rows))[0] / len(kept)
    assert (abs(share - 0.25) < 0.12).all(), share
    assert len(set(np.diff(kept))) > 5, "at no regular distance"


def test_lines_and_arrays_keep_the_same_rows_each_time(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"i": {i}}}\n' for i in range(500)))
        np.savez(tmp_path / f"{name}.npz", images=np.arange(500)[:, None] * np.ones((1, 4)), labels=np.arange(500))
        subsample(tmp_path / f"{name}.jsonl", 0.2)
        subsample(tmp_path / f"{name}.npz", 0.2)
    assert (tmp_path / "one.jsonl").read_text() == (tmp_path / "two.jsonl").read_text()
    with np.load(tmp_path / "one.npz") as archive:
        assert (archive["images"][:, 0] == archive["labels"]).all() and len(archive["labels"]) == 100
    assert len((tmp_path / "one.jsonl").read_text().splitlines()) == 100


def test_a_small_file_keeps_enough_to_learn_from(tmp_path):
    (tmp_path / "a.csv").write_text("x\n" + "1\n" * 100)
    (tmp_path / "b.csv").write_text("x\n" + "1\n" * 10)
    for name in "ab":
        subsample(tmp_path / f"{name}.csv", 0.01)
    assert len(pd.read_csv(tmp_path / "a.csv")) == FEWEST and len(pd.read_csv(tmp_path / "b.csv")) == 10


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"\.txt"):
        subsample(tmp_path / "train.txt", 0.5)
    np.savez(tmp_path / "odd.npz", a=np.zeros(3), b=np.zeros(4))
    with pytest.raises(ValueError, match=r"odd\.npz.*'a': 3, 'b': 4"):
        subsample(tmp_path / "odd.npz", 0.5)


def test_a_task_at_a_lower_fidelity_differs_only_in_its_rows():
    whole, tenth = load("digits"), load("digits@0.1")
    assert (tenth.id, tenth.fidelity, whole.fidelity) == ("digits@0.1", 0.1, 1.0) and tenth.digest != whole.digest
    rows = [len(pd.read_csv(task.env_dir / "train.csv")) for task in (whole, tenth)]
    assert rows[1] == pytest.approx(0.1 * rows[0], abs=1)
    for name in ("env/test.csv", "env/train.py", "scripts/eval.py"):
        assert (whole.env_dir.parent / name).read_bytes() == (tenth.env_dir.parent / name).read_bytes()
    assert load("digits@1") == whole and load("digits@0.1") == tenth


@pytest.mark.parametrize("name", ["digits@2", "digits@0", "digits@fast", "no-such-task@0.1"])
def test_a_fidelity_that_cannot_be_is_refused(name):
    with pytest.raises(TaskError, match=name.split("@")[0]):
        load(name)
