"""What the rewards of a group teach: the algorithms of `rl.algorithm`, and the socket for others (docs/extend.md).

An `Algorithm` is made of pure functions. Those that come with the project and one that is named by import path,
`rl.algorithm=my_algorithms:mine`, are taken by the same door, `named`. Invariant: an algorithm gives as many finite
advantages as there are rewards; otherwise a SocketError names the key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from envs.sockets import SocketError, imported, tried
from learner.algorithm import best_of, entropic
from learner.algorithm.best_of import Best
from learner.algorithm.entropic import Entropic

if TYPE_CHECKING:
    from torch import Tensor

    from learner.algorithm.losses import Objective, PolicyLoss, Tokens

KEY = "rl.algorithm"
EPSILON = 1e-6
"""Keeps the division finite where the rewards of a group hardly differ."""


class Loss(Protocol):
    """A policy loss of N tokens, as `learner.algorithm.losses.policy_loss` is one.

    Its `loss` must be the sum over tokens of something times `tokens.weights`, so that any split of a batch adds up.
    """

    def __call__(self, logprobs: Tensor, entropy: Tensor, tokens: Tokens, objective: Objective) -> PolicyLoss: ...


@dataclass(frozen=True)
class Algorithm:
    """How a policy learns from the rewards of a group."""

    advantages: Callable[[np.ndarray], np.ndarray]
    """Rewards of the n valid responses of one group, float64 [n], n ≥ 1 → their advantages, float64 [n]. A group all of
    whose advantages are zero is not computed, unless `rl.kl` or `rl.entropy` asks for it."""
    value_head: bool = False
    """Whether the learner trains V(s) and takes it off the advantages; then groups of zeros teach too."""
    loss: Loss | None = None
    """None: `policy_loss`."""
    scaled: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    """(Advantages of rloo's scale under another objective than the mean, rewards; both as of `advantages`) → those to
    train with. None: it cannot go with `rl.objective=best_of` or `entropic`."""


def normalised(rewards: np.ndarray) -> np.ndarray:
    """grpo: (reward − mean) / (population standard deviation + ε); DeepSeekMath, arXiv 2402.03300."""
    return (rewards - rewards.mean()) / (rewards.std() + EPSILON) if varied(rewards) else np.zeros_like(rewards)


def centred(rewards: np.ndarray) -> np.ndarray:
    """centred: reward − mean, not over the deviation, which makes most of groups that hardly differ; Dr. GRPO, arXiv
    2503.20783."""
    return rewards - rewards.mean() if varied(rewards) else np.zeros_like(rewards)


def left_out(rewards: np.ndarray) -> np.ndarray:
    """rloo: reward − mean of the other n−1, so (reward − mean) · n/(n−1); arXiv 2402.14740."""
    count = len(rewards)
    return (rewards - rewards.mean()) * count / (count - 1) if varied(rewards) else np.zeros_like(rewards)


def unscaled(unbiased: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """rloo: as they are."""
    return unbiased


def counted_in(unbiased: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """centred: · (n−1)/n, as a reward that counts in its own baseline has it."""
    return unbiased * (len(rewards) - 1) / len(rewards)


def over_deviation(unbiased: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """grpo: that over the deviation of the rewards."""
    return counted_in(unbiased, rewards) / (rewards.std() + EPSILON)


def as_they_are(rewards: np.ndarray) -> np.ndarray:
    """ppo: the reward itself, less V(s). Equal rewards teach too: all better or worse than V."""
    return rewards


def varied(rewards: np.ndarray) -> bool:
    """Whether the rewards of a group differ; those of one response do not."""
    return bool(rewards.std() > EPSILON)


ALGORITHMS = {
    "grpo": Algorithm(normalised, scaled=over_deviation),
    "centred": Algorithm(centred, scaled=counted_in),
    "rloo": Algorithm(left_out, scaled=unscaled),
    "ppo": Algorithm(as_they_are, value_head=True),
}


def named(algorithm: str) -> Algorithm:
    """The algorithm of that name or import path.

    Raises:
        SocketError: there is none.
    """
    if algorithm in ALGORITHMS:
        return ALGORITHMS[algorithm]
    outside = imported(algorithm, f"{KEY}={algorithm}")
    if not isinstance(outside, Algorithm):
        raise SocketError(f"{KEY}={algorithm} is {outside!r}, not a learner.algorithm.algorithms.Algorithm")
    return outside


def aim(rl: Any, step: int | None = None) -> Best | Entropic | None:
    """What learner step `step` maximises, if not the mean; rl: that section of the configuration; None: at last."""
    if rl.objective == "entropic":
        return Entropic(rl.entropic_beta, rl.entropic_kl)
    if rl.objective == "best_of":
        return Best(rl.best_of) if step is None else best_of.annealed(rl.best_of, step, rl.best_of_steps)
    return None


def advantages_of(algorithm: str, rewards: np.ndarray, best: Best | Entropic | None = None) -> np.ndarray:
    """Advantages of one group, float64 [n], under the mean or another objective. Raises SocketError where they are
    none."""
    values = np.asarray(_under(best, named(algorithm), rewards.copy()))
    if values.shape != rewards.shape or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise SocketError(
            f"{KEY}={algorithm}: the advantages of rewards {rewards.tolist()} must be as many finite numbers, "
            f"not {values.tolist()!r}"
        )
    return values.astype(np.float64)


def _under(best: Best | Entropic | None, algorithm: Algorithm, rewards: np.ndarray) -> np.ndarray:
    if best is None:
        return algorithm.advantages(rewards)
    assert algorithm.scaled is not None, "it is refused with the configuration"
    if not varied(rewards):
        return np.zeros_like(rewards)
    of = best_of.advantages(rewards, best) if isinstance(best, Best) else entropic.advantages(rewards, best)
    return algorithm.scaled(of, rewards)


def check(algorithm: str, best: Best | Entropic | None = None) -> None:
    """Try an algorithm on samples, under an objective. Raises SocketError where it cannot be used."""
    chosen = named(algorithm)
    if best and chosen.scaled is None:
        raise SocketError(
            f"{KEY}={algorithm} cannot go with rl.objective={'best_of' if isinstance(best, Best) else 'entropic'}: it "
            "does not say how advantages are `scaled`"
        )
    with tried(f"{KEY}={algorithm}"):
        for rewards in ([0.0, 1.0, 0.5], [0.5, 0.5], [-1.0]):
            advantages_of(algorithm, np.array(rewards), best)
        if chosen.loss:
            _check_loss(algorithm, chosen.loss)


def _check_loss(algorithm: str, loss: Loss) -> None:
    import torch  # only losses need it, and only one from outside is checked

    from learner.algorithm.losses import Objective, PolicyLoss, Tokens

    logprobs, entropy = torch.tensor([-1.0, -0.5, -2.0], requires_grad=True), torch.ones(3)
    known = torch.tensor([-1.1, -0.5, -1.5])
    tokens = Tokens(
        behaviour=known, proximal=known, reference=known, advantages=torch.tensor([1.0, 0.0, -1.0]),
        weights=torch.full((3,), 1 / 3), current=torch.tensor([False, True, False]), lengths=(2, 1),
    )  # fmt: skip
    result = loss(logprobs, entropy, tokens, Objective(kl=0.1))
    if not isinstance(result, PolicyLoss):
        raise SocketError(f"{KEY}={algorithm}: its loss must return a PolicyLoss, not {result!r}")
    if result.loss.shape != () or not result.loss.isfinite() or not result.loss.requires_grad:
        raise SocketError(f"{KEY}={algorithm}: its loss must be one finite number with a gradient, not {result.loss!r}")
    for name in ("ratios", "parts"):
        value = getattr(result, name)
        if value.shape != logprobs.shape or value.requires_grad:
            raise SocketError(f"{KEY}={algorithm}: {name} of its loss must be one number per token, without gradient")
