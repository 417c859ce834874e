"""The commands of which the proof consists, in order; each could be typed by a user.

Invariants: a stage that is done is not repeated, and one that was interrupted goes on from its last checkpoint; the
ablations of RL begin with the fine-tuned model of the main run, so that they differ in one thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAIN = "prove"
SMALL = (
    "tasks.held_in=[diabetes,diamonds,titanic,wine]",
    "tasks.held_out=[attrition,credit,iris_petal]",
    "rl.steps=12",
)
FINE_TUNED = f"{{runs}}/{MAIN}/checkpoints/step_0/hf"
FROM_FINE_TUNED = ("sft.epochs=0", f"model.path={FINE_TUNED}", f"experts.path={{runs}}/{MAIN}")


@dataclass(frozen=True)
class Stage:
    """One command."""

    name: str
    """Of its folder among the runs."""
    about: str
    program: str
    settings: tuple[str, ...]
    """Arguments, with `{runs}` for the folder of all runs."""

    def arguments(self, runs: Path) -> list[str]:
        """Of the Python interpreter."""
        begun = self.program == "learner/main.py" and (runs / self.name / "config.yaml").exists()
        settings = [setting.format(runs=runs) for setting in self.settings]
        return [self.program, *settings, *(["run.resume=true"] if begun else [])]


def _run(name: str, about: str, *settings: str) -> Stage:
    return Stage(name, about, "learner/main.py", ("config=prove", "run.dir={runs}", f"run.name={name}", *settings))


ABLATIONS = (
    _run("prove-steps", "step-wise GRPO, as the main run", *SMALL, *FROM_FINE_TUNED),
    # As many transitions per learner step as step-wise: 4 states × 4 episodes × 4 actions.
    _run(
        "prove-episodes", "episode-wise GRPO, 4 actions an episode", *SMALL, *FROM_FINE_TUNED,
        "rl.episode_steps=4", "rl.actions=4",
    ),
    _run("prove-ppo", "step-wise PPO with a value baseline", *SMALL, *FROM_FINE_TUNED, "rl.algorithm=ppo"),
    _run("prove-ten-ideas", "own expert with the ten most different ideas", *SMALL),
    _run("prove-one-idea", "own expert with one idea per task", *SMALL, "experts.ideas=1"),
)  # fmt: skip
EVALUATION = Stage(
    "prove/evaluation",
    "fine-tuned, base, trained and three baselines on fixed states and in whole episodes",
    "learner/evaluate.py",
    (
        FINE_TUNED, f"{{runs}}/{MAIN}", "actors.cpus=2", "evaluation.attempts=8", "evaluation.states=2",
        "evaluation.steps=5",
    ),
)  # fmt: skip
STAGES = (_run(MAIN, "the whole recipe"), EVALUATION, *ABLATIONS)
