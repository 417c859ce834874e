"""What the actors of a run do and have just done, as they say themselves (`actors/acting.py`).

Invariant: an actor that has gone without a word, or whose file is damaged, says nothing.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from actors.acting import FOLDER, HEARTBEAT, Said, Tried

__all__ = ["Said", "Tried", "said"]

SILENT = 3 * HEARTBEAT
"""Seconds after which an actor that has written nothing has gone."""
READER = msgspec.json.Decoder(Said)  # made here, since threads that make one at the same time break it


def said(run_dir: Path, now: float) -> list[Said]:
    """By those that act now, in the order of their names."""
    found = (_read(file) for file in sorted(Path(run_dir, FOLDER).glob("*.json")))
    return [one for one in found if one and now - one.written <= SILENT]


def _read(file: Path) -> Said | None:
    try:
        return READER.decode(file.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
