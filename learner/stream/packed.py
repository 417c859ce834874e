"""Groups of transitions as the bytes in which they come from actors, wait in the stream and lie in checkpoints.

Invariant: unpacking builds records and arrays and calls nothing else, whatever the bytes hold.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from typing import Any

from envs import records
from envs.errors import UserError
from envs.records import Transition

ARRAYS = {
    ("numpy", "dtype"), ("numpy", "ndarray"), ("numpy._core.numeric", "_frombuffer"),
    ("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"),
}  # fmt: skip
"""What a pickle of arrays and their elements names."""


class StreamError(UserError):
    """A group that no actor could finish; the message carries the last actor's reason."""


def unpack(groups: Iterable[bytes]) -> list[list[Transition]]:
    """The groups of a batch.

    Raises:
        StreamError: one holds something else than records.
    """
    return [_Records(io.BytesIO(group)).load() for group in groups]


class _Records(pickle.Unpickler):
    """Builds records and arrays and calls nothing else: groups that wait also come from a checkpoint, and so from
    wherever that was copied from."""

    def find_class(self, module: str, name: str) -> Any:
        of_records = module == records.__name__ and getattr(vars(records).get(name), "__module__", None) == module
        if of_records or (module, name) in ARRAYS:
            return super().find_class(module, name)
        raise StreamError(f"a group of transitions names {module}.{name}, which is no record: it is damaged or forged")
