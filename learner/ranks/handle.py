"""The learner as the driver sees it: a handle over one DeepSpeed process per rank.

Invariants: a step on which nothing has a gradient changes nothing; a rank that dies is made up for (recovery.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

from actors.pool import Receiver
from actors.runtime.placement import Anywhere
from envs.records import Transition
from learner.algorithm.batching import Example
from learner.algorithm.step_report import StepReport
from learner.config.schema import Config
from learner.ranks.group import RankDied, RankGroup
from learner.ranks.rank import Published
from learner.ranks.recovery import Recovery
from learner.ranks.steps import FinetuneStep, Position, finetune_steps, mean_loss, policy_step


class Learner:
    """Trains the policy. Calls block, and raise LearnerError where the learner cannot go on; not thread-safe."""

    def __init__(
        self, cfg: Config, model_dir: Path, say: Callable[[str], None] = print, places: Anywhere | None = None
    ) -> None:
        """Start `learner.ranks` processes and load the model of `model_dir` in each; Ray must be initialised.

        say: tells the user of a restart; places: reserved for the processes (`group.reserve`), if they are.
        """
        self.cfg, self.position = cfg, Position()
        self._ranks = RankGroup(cfg, Path(model_dir), places)
        self._recovery = Recovery(self._ranks, self.position, say)
        self._ranks.start()

    def finetune(self, examples: Sequence[Example]) -> Iterator[FinetuneStep]:
        """`sft.epochs` passes over the examples in a seeded order; yields after each optimiser step.

        It goes on after step `position.sft_steps`, where `load` brought it, and again where a rank dies. The
        optimiser's moments are forgotten at the end. Raises LearnerError, BatchingError.
        """
        ended = False
        while not ended:
            try:
                yield from finetune_steps(self._ranks, self.cfg, examples, self.position)
                self._ranks.everyone("reset_optimizer")
                ended = True
            except RankDied as error:
                self._recovery.restart(error)
        self.position.sft_steps = 0
        self._recovery.finetuned()

    def loss(self, examples: Sequence[Example]) -> float | None:
        """Mean cross-entropy of the response tokens, in nats; None without examples. Raises as `finetune`."""
        if not examples:
            return None
        return self._recovery.surviving(lambda: mean_loss(self._ranks, self.cfg, examples))

    def train(self, groups: Sequence[Sequence[Transition]], version: int) -> StepReport:
        """One learner step on groups of transitions (what rewards are compared within).

        version: the weight version being trained; tokens sampled under it have the same weights here, so the
        log-prob gap is measured on them unless there are none. Raises LearnerError, BatchingError.
        """
        report = self._recovery.surviving(lambda: policy_step(self._ranks, self.cfg, groups, version, self.position))
        self.position.trained(self.cfg.rl, report)
        self._recovery.trained(groups, version)
        return report

    def hold_reference(self, folder: Path) -> None:
        """Take what `keep_reference` wrote as the reference of the KL term (`rl.kl`)."""
        self._recovery.surviving(lambda: self._ranks.everyone("hold_reference", Path(folder)))
        self._recovery.holds_reference(Path(folder))

    def publish(self, bucket_bytes: int, version: int, full: bool = False) -> Published:
        """The weights in the object store, as buckets of about `bucket_bytes` that `actors.policy.weights` unpacks, or
        where they lie on the card that all share.

        full: in full, for actors that have not got the version before; also every `learner.full_every` versions.
        """
        on_card = self.cfg.learner.transfer == "ipc" and not full
        full = full or version % self.cfg.learner.full_every == 0
        what = bucket_bytes, version, full, self._is_checked(version), on_card
        return self._recovery.surviving(lambda: self._ranks.everyone("publish", *what)[0])

    def broadcast(self, version: int, receivers: Callable[[], Sequence[Receiver]]) -> Published:
        """The weights in all actors' engines, over NCCL.

        receivers: who lives; asked again where the broadcast fails. An actor that dies in it leaves the ranks waiting
        for it in a collective: after `actors.deadline` they are started again.
        """
        checked, deadline = self._is_checked(version), self.cfg.actors.deadline

        def send() -> Published:
            what = f"the broadcast of version {version}"
            call = receivers(), version, checked, deadline
            return self._ranks.with_others(what, deadline, "broadcast", *call)[0]

        return self._recovery.surviving(send)

    def _is_checked(self, version: int) -> bool:
        every = self.cfg.learner.check_every
        return every > 0 and version % every == 0

    def export(self, folder: Path) -> None:
        """Write the policy as a Hugging Face folder (seen by all ranks)."""
        self._ranks.everyone("export", Path(folder))

    def keep_reference(self, folder: Path) -> None:
        """Write what `hold_reference` takes of the policy as it is: a Hugging Face folder, or the adapters alone."""
        self._recovery.surviving(lambda: self._ranks.everyone("keep_reference", Path(folder)))

    def save(self, folder: Path) -> None:
        """Write `folder` (seen by all ranks): state to resume from, and `hf/`, a plain Hugging Face model.

        Raises LearnerError where it cannot be written; training can go on.
        """
        self._recovery.save(Path(folder))

    def saving(self, folder: Path) -> Generator[None, None, bool]:
        """As `save`, while training goes on: yields as long as the ranks write what is now. Returns whether that is
        there: not where a rank died meanwhile, which is made up for."""
        return self._recovery.saving(Path(folder))

    def restart_from(self, folder: Path) -> None:
        """Where `save` put the state that a restart goes back to, if not where it was told to."""
        self._recovery.moved(folder)

    def load(self, folder: Path) -> None:
        """Continue from a folder that `save` wrote, whatever number of ranks and ZeRO stage wrote it."""
        loaded = self._recovery.surviving(lambda: self._recovery.load(Path(folder)))
        self.position.rl_steps, self.position.sft_steps = loaded.rl_steps, loaded.sft_steps
        self.position.entropy_added = loaded.entropy_added
        self._recovery.goes_back_to(Path(folder))

    def rest(self) -> None:
        """Have the ranks give up the memory of their cards; nothing but `wake` may be asked of them then."""
        self._recovery.surviving(lambda: self._ranks.everyone("rest"))

    def wake(self) -> None:
        """Have the ranks as they were before `rest`, or as they were before they died in it."""
        self._recovery.surviving(lambda: self._ranks.everyone("wake"))

    def close(self) -> None:
        """End all ranks."""
        self._ranks.close()
