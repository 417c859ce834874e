"""What a rank writes of a checkpoint while it trains on: its state, of which it holds a copy, and then the model.

The model is read from the state that all ranks have written, rounded to what they compute with, so that nobody has to
copy or gather it. Invariants: one thread writes, one thing after the other; it takes part in no collective, and reads
nothing that training changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from learner.ranks import checkpoints, training_state
from learner.ranks.training_state import File

STATE = "state"
"""Folder of a checkpoint."""


class Writer:
    """The thread of one rank."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None

    def begin(self, write: Callable[..., None], *args: Any) -> None:
        """Have it called."""
        self._last = self._thread.submit(write, *args)

    def busy(self) -> bool:
        """Whether the call has not ended."""
        return self._last is not None and not self._last.done()

    def ended(self) -> None:
        """Waits for the call and raises what it raised."""
        last, self._last = self._last, None  # an error holds on to what was to be written
        if last:
            last.result()


def write_state(folder: Path, rank: int, files: Iterable[File], about: dict[str, Any]) -> None:
    """Write one rank's part of a checkpoint; raises CheckpointError."""
    with checkpoints.naming(folder, "write"):
        (folder / STATE).mkdir(parents=True, exist_ok=True)
        training_state.write(folder / STATE, rank, files, about)


def write_model(folder: Path, model: PreTrainedModel, shapes: Sequence[tuple[str, Tensor]], source: Path) -> None:
    """Write the Hugging Face folder of a checkpoint whose state is there; raises CheckpointError.

    shapes: of the parameters, on the meta device, by name; source: as of `checkpoints.write_hugging_face`.
    """

    def weights(saved: training_state.Saved) -> Iterator[tuple[str, Tensor]]:
        for name, shape in shapes:
            master = saved.range(training_state.WEIGHT, name, 0, shape.numel())
            yield name, master.view(shape.shape).to(shape.dtype)

    with checkpoints.naming(folder, "write"), training_state.Saved(folder / STATE) as saved:
        checkpoints.write_hugging_face(folder / checkpoints.HUGGING_FACE, model, shapes, weights(saved), source)
