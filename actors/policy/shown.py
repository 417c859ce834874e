"""A prompt as the model gets it, for people to read.

Invariant: the text is decoded from the very token ids that an engine would be asked with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from actors.policy.chat import Chat
from envs.prompt import BRIEF, Extent
from envs.records import State, Task


def prompt(
    model_dir: Path,
    context: int,
    response: int,
    task: Task,
    state: State,
    files: Mapping[str, str],
    extent: Extent = BRIEF,
) -> tuple[str, int]:
    """(the whole prompt with the chat template's own tokens, how many tokens it has).

    context, response: tokens of prompt and response together, and most tokens of the latter; files: those that may be
    changed, path → text; extent: how much is shown where it fits.

    Raises:
        PromptError: the instructions and a few lines of the script are over the budget.
    """
    chat = Chat(str(model_dir), context, response, extent=extent)
    ids = chat.prompt(task, state, dict(files))
    return chat.shown(ids), len(ids)
