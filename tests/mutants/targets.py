"""Which modules are mutated, and the tests that must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOAL = 0.85
"""Share of the mutants, without the accepted ones, that tests must notice."""


@dataclass(frozen=True)
class Target:
    """A module, and where its tests are; of these each mutant meets those that run its line."""

    path: str
    also: tuple[str, ...] = ()
    """Patterns of test files besides the one that mirrors it."""

    @property
    def tests(self) -> list[str]:
        """Files, relative to the root."""
        module = Path(self.path)
        stem = module.parent.name if module.stem == "__init__" else module.stem
        patterns = (f"tests/unit/{module.parent}/test_{stem}.py", *self.also)
        return sorted({str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)})


ALGORITHM = ("tests/unit/learner/algorithm/test_*.py",)
STREAM = (
    "tests/unit/learner/stream/test_stream.py",
    "tests/unit/learner/stream/test_schedules.py",
    "tests/unit/test_untrusted.py",
)
WEIGHTS = (
    "tests/unit/actors/policy/test_weights.py",
    "tests/contract/actors/policy/test_damaged_weights.py",
    "tests/contract/actors/policy/test_weights_engine.py",
)
TARGETS = (
    Target("learner/algorithm/advantages.py", ALGORITHM),
    Target("learner/algorithm/algorithms.py", ALGORITHM),
    Target("learner/algorithm/batching.py", ALGORITHM),
    Target("learner/algorithm/best_of.py", ALGORITHM),
    Target("learner/algorithm/entropic.py", ALGORITHM),
    Target("learner/algorithm/losses.py", ALGORITHM),
    Target("learner/algorithm/policy_batch.py", ALGORITHM),
    Target("learner/algorithm/policy_step.py", ALGORITHM),
    Target("learner/algorithm/policy_sums.py", ALGORITHM),
    Target("learner/algorithm/schedules.py", ALGORITHM),
    Target("learner/algorithm/step_report.py", ALGORITHM),
    Target("learner/stream/stream.py", STREAM),
    Target("learner/stream/packed.py", STREAM[2:]),
    Target("learner/stream/states.py", STREAM[:2]),
    Target("learner/stream/values.py"),
    Target("actors/policy/weights.py"),
    Target("actors/policy/weights_engine.py", WEIGHTS),
    Target("actors/expert/edits.py"),
    Target("envs/actions.py", ("tests/unit/envs/test_*actions*.py",)),
    Target("envs/changes.py", ("tests/unit/envs/test_*actions*.py",)),
    Target("envs/matching.py", ("tests/unit/envs/test_*actions*.py",)),
    Target("envs/admission.py"),
    Target("envs/experiment_cache.py"),
    Target("envs/grading.py"),
    Target("envs/benchmarks/fidelity.py"),
    Target("learner/config/rules.py", ("tests/unit/learner/config/test_config.py",)),
    Target("learner/evaluation/scores.py"),
    Target("learner/figures/statistics.py", ("tests/unit/learner/evaluation/test_evaluation.py",)),
    Target("reward/__init__.py"),
)
