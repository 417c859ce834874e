"""What prompts tell of data files: what a sandbox shows, bounded and escaped."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from envs import preview as module
from envs.preview import preview, shown_file


@pytest.fixture(autouse=True)
def _fresh():
    module._looked_at.cache_clear()


def shown(folder: Path, characters: int = 10_000) -> str:
    return preview(folder, frozenset({"train.py"}), characters)


def test_columns_types_rows_and_values(tmp_path):
    (tmp_path / "a.csv").write_text('id,price,name,none\n1,2.5,"Fly, The",\n2,,Antz,\n')
    (tmp_path / "b.tsv").write_text("x\ty\n1\t2\n")
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"text": "good", "stars": 5}) + "\n" + json.dumps({"text": "bad"}) + "\n"
    )
    (tmp_path / "d.json").write_text(json.dumps([{"k": [1, 2]}]))
    (tmp_path / "train.py").write_text("import os")
    assert shown(tmp_path).split("\n") == [
        "a.csv (46 B, 2 rows, 4 columns)",
        "  id: integer, e.g. 1, 2",
        "  price: number, 50 % missing, e.g. 2.5",
        '  name: text, e.g. "Fly, The", "Antz"',
        "  none: empty",
        "b.tsv (8 B, 1 row, 2 columns)",
        "  x: integer, e.g. 1",
        "  y: integer, e.g. 2",
        "c.jsonl (45 B, 2 lines)",
        '  text: text, e.g. "good", "bad"',
        "  stars: integer, 50 % missing, e.g. 5",
        "d.json (15 B, a list of 1)",
        '  k: text, e.g. "[1, 2]"',
    ]


def test_arrays_and_folders_of_many_files(tmp_path):
    np.savez_compressed(tmp_path / "train.npz", images=np.zeros((50, 8, 8), np.uint8), labels=np.arange(50))
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.float32))
    (tmp_path / "images").mkdir()
    for number in range(30):
        (tmp_path / "images" / f"{number:02}.png").write_bytes(b"\x89PNG")
    text = shown(tmp_path)
    assert "  images: uint8 50 × 8 × 8\n  labels: int64 50\n" in text and "x.npy (152 B, float32 3 × 2)" in text
    assert "images/07.png (4 B)\nimages/: 22 more files (.png)" in text and "08.png" not in text


def test_a_long_tables_rows_are_counted_without_parsing_them(tmp_path):
    (tmp_path / "a.csv").write_text("id,x\n" + "".join(f"{n},{n}\n" for n in range(60_000)))
    assert shown(tmp_path).startswith("a.csv (697.8 kB, 60,000 rows, 2 columns)")


@pytest.mark.parametrize("characters", [0, 1, 15, 60, 200, 700, 3000, 20_000])
def test_a_preview_keeps_its_budget_and_tells_the_more_the_larger_it_is(tmp_path, characters):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(",".join(f"column_{n}" for n in range(100)) + "\n" + ",".join(["1"] * 100) + "\n")
    text, less = shown(tmp_path, characters), shown(tmp_path, characters // 2)
    assert len(text) <= characters and len(less) <= len(text)
    assert ("column_99" in text) == (characters >= 3000) and ("a.csv" in text) == (characters >= 60)


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    private, env = tmp_path / "scripts", tmp_path / "env"
    private.mkdir()
    env.mkdir()
    (private / "answers.csv").write_text("id,target\n1,secret\n")
    (env / "own.csv").write_text("id\n1\n")
    (env / "inside.csv").symlink_to("own.csv")
    (env / "answers.csv").symlink_to("../scripts/answers.csv")
    (env / "folder").symlink_to(private)
    (env / "loop.csv").symlink_to("loop.csv")
    os.mkfifo(env / "pipe.csv")
    names = [line for line in shown(env).split("\n") if not line.startswith(" ")]
    assert names == ["inside.csv (5 B, 1 row, 1 column)", "own.csv (5 B, 1 row, 1 column)"]
    for name in ("answers.csv", "folder/answers.csv", "loop.csv", "pipe.csv", "../scripts/answers.csv", "x" * 5000):
        assert shown_file(env, name) is None
    assert shown_file(env, "inside.csv") == (env / "own.csv").resolve()


def test_what_files_hold_is_escaped_and_cut(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,\x1b[2Jname\n1,\x1b]0;title\x07 evil\n2," + b"9" * 100_000 + b"\n")
    (tmp_path / "\x1b[31mred.csv").write_text("x\n")
    text = shown(tmp_path)
    assert "\x1b" not in text and "\x07" not in text and "\\x1b[2Jname" in text and len(text) < 500


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\1\2",
        b'"' * 300_000,
        b"a" * 300_000,
        b"," * 300_000,
        b"a\n" * 1_000_000,
        gzip.compress(b"id,x\n" * 10_000),
        b"\x93NUMPY\x01\x00\x07\x00{( 'a'\n",
    ],
    ids=["empty", "binary", "quotes", "one line", "columns", "lines", "compressed", "array"],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".npy", ".npz", ".bin"])
def test_a_file_that_is_not_what_it_says_is_listed(tmp_path, content, suffix):
    (tmp_path / f"a{suffix}").write_bytes(content)
    text = shown(tmp_path)
    assert text.startswith(f"a{suffix} (") and len(text) < 5000


def test_nested_json_and_archives_that_unpack_to_gigabytes_take_no_memory(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file, file.open("x.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (1 << 24,)})
        member.write(bytes(1 << 24))
    with (tmp_path / "sparse.csv").open("wb") as file:
        file.write(b"id\n1\n")
        file.truncate(8 << 30)
    tracemalloc.start()
    try:
        text = shown(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "  x: uint8 16777216" in text and "deep.json (100.0 kB)" in text and "sparse.csv (8.6 GB)" in text
    assert peak < 8 << 20
