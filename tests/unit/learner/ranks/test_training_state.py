"""However a parameter was divided where it was written, every range of it can be read."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.ranks import training_state
from learner.ranks.checkpoints import CheckpointError
from learner.ranks.training_state import MOMENTS, Saved, Slice

SIZES = {"a.weight": 7, "a.bias|x": 1, "b": 40}
RANKS = 5


def written(folder: Path, cuts: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Master and moments of parameters that are cut there, the n-th pieces on rank n; returns what was written."""
    values = {name: torch.rand(len(MOMENTS) + 1, size) for name, size in SIZES.items()}
    ranks: list[list[tuple[Slice, torch.optim.Optimizer]]] = [[] for _ in range(RANKS)]
    for name, size in SIZES.items():
        ends = [0, *sorted(cuts[name]), size]
        for of_rank, (start, end) in zip(ranks, itertools.pairwise(ends), strict=False):
            if start == end:
                continue
            # After two elements of another.
            flat = [torch.cat([torch.rand(2), one[start:end]]) for one in values[name]]
            master = torch.nn.Parameter(flat[0])
            optimizer = torch.optim.AdamW([master])
            optimizer.state[master] = dict(zip(MOMENTS, flat[1:], strict=True)) | {"step": torch.tensor(5.0)}
            of_rank.append((Slice(name, start, end - start, master, 2, False), optimizer))
    for rank, slices in enumerate(ranks):
        training_state.write(folder, rank, training_state.files(rank, slices), {"rl_steps": 3})
    return values


@settings(deadline=None)  # it writes to a disk
@given(st.data())
def test_any_range_can_be_read_of_any_division(data):
    cuts = {name: data.draw(st.lists(st.integers(0, size), max_size=RANKS - 1)) for name, size in SIZES.items()}
    start = data.draw(st.integers(0, SIZES["b"]))
    end = data.draw(st.integers(start, SIZES["b"]))
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_state, "FILE_BYTES", data.draw(st.sampled_from([50, 1 << 30])))
        values = written(Path(scratch), cuts)
        with Saved(Path(scratch)) as saved:
            assert saved.names() == SIZES.keys() and saved.steps("b") == 5
            for number, part in enumerate(("weight", *MOMENTS)):
                assert torch.equal(saved.range(part, "b", start, end - start), values["b"][number, start:end])
                assert torch.equal(saved.range(part, "a.bias|x", 0, 1), values["a.bias|x"][number])
        assert training_state.about(Path(scratch)) == {"rl_steps": 3}


def test_what_is_not_all_there_is_said_so(tmp_path):
    written(tmp_path, {name: [1] for name in SIZES})
    next(tmp_path.glob("rank_1-*")).unlink()
    with Saved(tmp_path) as saved, pytest.raises(CheckpointError, match="has 1 of 40 elements of weight b"):
        saved.range("weight", "b", 0, 40)
    with pytest.raises(CheckpointError, match="has no rank_"), Saved(tmp_path / "elsewhere"):
        pass
