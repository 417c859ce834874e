"""Engine and learner must agree on the log-probs of the same tokens under the same weights: what if they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from learner.algorithm.step_report import StepReport, TokenGap
from learner.ranks.group import LearnerError


def check(step: int, report: StepReport, rl: Any, model_dir: Path, say: Callable[[str], None]) -> None:
    """Warn of a mean gap above `rl.gap_warn`, where it can be judged: of tokens that the trained weights sampled. What
    learner and engine say of older ones differs by what was learned since.

    Raises:
        LearnerError: it is above `rl.gap_stop`; the message shows the worst tokens.
    """
    update = report.update
    gap = update.logprob_gap_mean if update and update.logprob_gap_on_current else 0.0
    if gap <= rl.gap_warn:
        return
    gap_said = f"step {step}: mean log-prob gap {gap:.3f} between vLLM and learner"
    if gap <= rl.gap_stop:
        say(f"{gap_said} > rl.gap_warn")
        return
    vocabulary = model_dir / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(vocabulary)) if vocabulary.exists() else None
    worst = "".join(f"\n  {_shown(token, tokenizer)}" for token in report.worst_tokens)
    raise LearnerError(f"{gap_said} > rl.gap_stop={rl.gap_stop:g}; the worst tokens:{worst}")


def _shown(token: TokenGap, tokenizer: Tokenizer | None) -> str:
    piece = tokenizer.id_to_token(token.token) if tokenizer else token.token
    where = f"{token.transition_id} token {token.position} {piece!r}"
    return f"{where}: engine {token.engine:.3f}, learner {token.learner:.3f}"
