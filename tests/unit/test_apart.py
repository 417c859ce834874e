"""Errors of other processes (`tests/apart.py`)."""

from __future__ import annotations

import pytest

from tests import apart


class TwoParts(Exception):
    """It is pickled with what it hands on, which does not make it again."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")


def refuse(error: Exception) -> None:
    raise error


def test_an_error_that_cannot_come_back_from_a_process_comes_as_text():
    with pytest.raises(RuntimeError, match="TwoParts: key: wrong"):
        apart.told(refuse, TwoParts("key", "wrong"))
    with pytest.raises(KeyError):
        apart.told(refuse, KeyError("key"))
