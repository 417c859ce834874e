"""The records that flow between rooms, as frozen dataclasses; every room may import this file.

Invariants: records are immutable and picklable; this file imports only the standard library and numpy;
an `Outcome` of `INFRA_FAILURE` never carries a reward that is trained on.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


class Word(enum.StrEnum):
    """One of some words. It is pickled by its value: early versions of Python 3.11 would have `getattr` called, which
    whoever reads transitions as data refuses."""

    def __reduce_ex__(self, protocol: object) -> tuple[type[Word], tuple[str]]:
        return type(self), (self.value,)


class Direction(Word):
    """Which way the task metric improves."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"

    @property
    def sign(self) -> int:
        """+1 or −1: multiplying a score by it makes larger better."""
        return 1 if self is Direction.MAXIMIZE else -1


class Outcome(Word):
    """What became of one action."""

    EDITED = "edited"
    """The edit applied, the script ran, and its submission was graded."""
    NEUTRAL = "neutral"
    """A valid action that changed no file (execute, inspect, undo, final answer)."""
    INVALID = "invalid"
    """The text was no action, or its arguments were refused (unknown file, no match, read-only)."""
    TRUNCATED = "truncated"
    """The response was cut by its limit of tokens: whatever stands there was not carried out."""
    SCRIPT_ERROR = "script_error"
    """The script crashed, or left no submission that the grader accepts."""
    TIMEOUT = "timeout"
    """The script ran past its wall-clock limit."""
    OUT_OF_MEMORY = "out_of_memory"
    """The script asked for more memory than its limit."""
    INFRA_FAILURE = "infra_failure"
    """The sandbox, not the script, failed: masked from training and retried."""


class Fault(Word):
    """Why a text is no action, or one that is refused: what the model does wrong."""

    EMPTY = "empty"
    """Nothing stands there, or nothing but thinking that has no end."""
    NO_ACTION = "no_action"
    """There is no line `Action: NAME`."""
    SEVERAL_ACTIONS = "several_actions"
    UNKNOWN_ACTION = "unknown_action"
    BAD_ARGUMENT = "bad_argument"
    """One that is missing, unknown, or of another form."""
    BAD_BLOCK = "bad_block"
    """The block of an edit or file is missing, unfinished, or one too many."""
    NO_MATCH = "no_match"
    """The lines to replace are not in the file."""
    AMBIGUOUS = "ambiguous"
    """They are there more than once."""
    UNCHANGED = "unchanged"
    """Nothing would change."""
    REFUSED = "refused"
    """It is not to be had, or not allowed: an unknown or read-only file, a file too large, nothing to undo."""


@dataclass(frozen=True)
class Limits:
    """What one experiment may use; enforced by the sandbox."""

    seconds: float = 30.0
    """Wall-clock seconds."""
    cpus: float = 1.0
    """CPU cores, and the thread count of numerical libraries."""
    memory_mb: int = 1024
    """MiB of memory for all processes of the experiment."""
    gpus: int = 0
    """Whole GPUs, none of which another experiment has at the same time."""
    disk_mb: int = 256
    """MiB that all written files together may have, in the working folder and again in /tmp."""
    processes: int = 64
    """Processes and threads at once."""


@dataclass(frozen=True)
class Build:
    """How an image of a task's own is made."""

    folder: Path
    """With the Dockerfile, and all that it copies."""
    seconds: float = 600.0
    """That it may take."""
    workdir: str = ""
    """Where the task's files are, if it says so beside the Dockerfile; empty: in the image's own working folder."""


@dataclass(frozen=True)
class Verifier:
    """Tests of Harbor's form: they grade the files that there are after the script, in a sandbox of their own."""

    tests: Path
    """The folder that is /tests there, with test.sh; never mounted in the sandbox of an action."""
    workdir: str
    """Where the task expects its files; absolute, and so seen in both sandboxes beside /workspace."""
    seconds: float = 600.0
    env: tuple[tuple[str, str], ...] = ()
    """(name, value) of the environment of both."""
    build: Build | None = None
    """Of the image that both run in; None: they run as other experiments do."""


@dataclass(frozen=True)
class Task:
    """A prepared ML task: what the agent sees, and (by path, never content) what only the grader sees."""

    id: str
    problem: str
    """The text of scripts/research_problem.txt."""
    env_dir: Path
    """What the agent sees, read-only: the script, the data, task_descriptor.txt."""
    private_dir: Path
    """scripts/ with eval.py and all answers; never mounted in a sandbox."""
    script: str
    """The script that is run and improved, relative to env_dir."""
    read_only: frozenset[str]
    """Files (relative to env_dir) that the agent may not change."""
    metric: str
    direction: Direction
    split: str
    """`held_in` (trained on) or `held_out` (only evaluated)."""
    limits: Limits
    m_best: float | None
    """Score of a strong solution on validation (of a leaderboard: on all answers); with m_init it spans the reward's
    range. None where none is known."""
    m_init: float | None = None
    """Score of the unchanged script on validation, measured on the sandbox in use; None until measured."""
    m_init_test: float | None = None
    """The same on test, for reports."""
    digest: str = ""
    """Hash of the folder that the task was prepared from: equal digests, equal tasks."""
    rows: tuple[str, ...] = ()
    """Files in env_dir of which a fidelity below 1 keeps a share of the rows."""
    medals: tuple[tuple[str, float], ...] = ()
    """(medal, the score that earns it), the best medal first."""
    actions: str = "native"
    """How the policy writes actions: `native` (envs.actions) or `mlagentbench` (envs.research_actions)."""
    fidelity: float = 1.0
    """Share of the rows in `rows` that env_dir holds; scripts find it in MLAGENT_FIDELITY."""
    parts: Path | None = None
    """validation/ and test/ (envs.parts), each as private_dir with its part of the answers; None where scores on both
    are of all answers."""
    undivided: str = ""
    """Why there are no parts, where that is known."""
    editable: frozenset[str] = frozenset()
    """Files (relative to env_dir) besides the script that the agent may change."""
    shell: bool = False
    """Whether the policy may run commands (of `native` actions)."""
    verifier: Verifier | None = None
    """What grades, in the place of scripts/eval.py."""
    keep: tuple[str, ...] = ()
    """Globs of the files that a run may leave to the runs of later states."""
    keep_mb: int = 64
    """MiB that those of one state may have."""


@dataclass(frozen=True)
class Step:
    """One past action and what was observed after it."""

    action: str
    observation: str


@dataclass(frozen=True)
class State:
    """A point from which the policy acts: restorable from its snapshot."""

    id: str
    task_id: str
    snapshot: str
    """Id of the workspace content in the snapshot store."""
    history: tuple[Step, ...] = ()
    score: float | None = None
    """Score of the current workspace; None if its last run failed or it never ran."""
    reference: float | None = None
    """Last valid score on the way here: m_before of the next action."""
    undo: tuple[tuple[str, float | None], ...] = ()
    """(snapshot, score) before each edit so far, newest last."""
    kind: str = "initial"
    """`initial`, `middle`, `plateau` or `error`."""
    best: float | None = None
    """Best valid score on the way here, undone or not; states of earlier versions lack it."""
    unrun: int = 0
    """Edits since the task's script was last run: then the score is None, and not because it fails."""


@dataclass(frozen=True)
class Kept:
    """A file that a run left, by its content."""

    digest: str
    """SHA-256, the name of the content in the snapshot store."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Reached:
    """The script that an action led to."""

    snapshot: str
    score: float | None
    """None: it fails, or was never run."""


@dataclass(frozen=True)
class Durations:
    """Seconds spent in each part of a step."""

    queue: float = 0.0
    restore: float = 0.0
    execute: float = 0.0
    grade: float = 0.0

    def __add__(self, other: Durations) -> Durations:
        return Durations(
            self.queue + other.queue, self.restore + other.restore, self.execute + other.execute,
            self.grade + other.grade,
        )  # fmt: skip


class Origin(Word):
    """Where the result of an experiment comes from."""

    RUN = "run"
    """It was run for this step."""
    CACHE = "cache"
    """An identical experiment had been run before; durations are those of that run."""
    SIMULATED = "simulated"
    """Drawn from recorded results: good for rehearsals, never for evaluation."""


@dataclass(frozen=True)
class Withheld:
    """Scores for reports: no prompt, reward or choice is made of them."""

    test: float
    """On the test part of the answers; the step's score once more where they have no parts."""
    whole: float | None = None
    """On all answers, where the task has medals: what its leaderboard is made of."""
    apart: bool = True
    """Whether there are answers that are test's alone; otherwise no figure on test is made of `test`."""

    @property
    def on_test(self) -> float | None:
        """The figure on test, if there is one."""
        return self.test if self.apart else None


class Finding(Word):
    """What is suspicious in an action (envs.audit)."""

    CONSTANT = "constant"
    """All rows have one prediction, and yet the score is better than before."""
    SAMPLE = "sample"
    """The predictions are those of an example of a submission."""
    COPIED = "copied"
    """The predictions are a column of a table that the script is shown."""
    PERFECT = "perfect"
    """The score jumped to a (nearly) perfect one."""
    ABOVE_BEST = "above_best"
    """The score is far above the best known."""
    OVERFITTED = "overfitted"
    """The score on validation is far above that on test."""
    READS_OUTSIDE = "reads_outside"
    """The script names a place outside its folder."""
    HIDES_FAILURE = "hides_failure"
    """The script catches everything, and ends without an error."""


Findings = tuple[tuple[str, str], ...]
"""(`Finding`, why) of each."""


@dataclass(frozen=True)
class Experiment:
    """What came of running a task's script on given files."""

    outcome: Outcome
    """EDITED where there is a score; SCRIPT_ERROR, TIMEOUT or OUT_OF_MEMORY where there is none."""
    score: float | None
    """On the validation part of the answers, like every score that is not withheld."""
    log: str
    """What the script printed, the middle left out where it is long; neither escaped nor to be trusted."""
    durations: Durations
    peak_mb: float = 0.0
    """MiB of memory that it needed at most."""
    milestones: tuple[str, ...] = ()
    """How far the script was seen to get: of `MILESTONES`, those reached."""
    finished: bool = True
    """The script itself ended without an error, whatever it left."""
    origin: Origin = Origin.RUN
    withheld: Withheld | None = None
    findings: Findings = ()
    """Those in the submission."""
    kept: tuple[tuple[str, Kept], ...] | None = None
    """(path, content) of all that is to be kept from now on; None: what was kept before stays."""


@dataclass(frozen=True)
class Commands:
    """What came of running commands in a workspace."""

    outcome: Outcome
    """NEUTRAL where they came to their end, whatever their exit code; otherwise as an experiment's."""
    log: str
    """As an experiment's."""
    durations: Durations = field(default_factory=Durations)
    peak_mb: float = 0.0
    written: dict[str, str] = field(default_factory=dict)
    """Path → text of the files that are new or changed."""
    deleted: tuple[str, ...] = ()
    """Paths of the files that are there no more."""
    others: tuple[str, ...] = ()
    """Paths of what else is there and can be in no state: links, and files that are no text or too large."""
    kept: tuple[tuple[str, Kept], ...] | None = None
    """As an experiment's."""


MILESTONES = ("data_opened", "model_fitted", "predictions_written", "submission_valid")


@dataclass(frozen=True)
class StepResult:
    """What the environment answers to one action. `state` is where the episode goes on."""

    action: str
    """Kind of the parsed action (`edit`, `write`, `execute`, …) or `invalid`."""
    outcome: Outcome
    score_before: float | None
    score_after: float | None
    observation: str
    log_tail: str
    durations: Durations
    state: State
    peak_mb: float = 0.0
    milestones: tuple[str, ...] = ()
    origin: Origin = Origin.RUN
    withheld: Withheld | None = None
    """Beside score_after."""
    findings: Findings = ()
    """What is suspicious in the action, where it is an edit."""
    fault: str = ""
    """Of an invalid action: which `Fault` it has."""
    response_used: float = 0.0
    """In [0, 1]: tokens of the response over the most that it may have."""
    best_before: float | None = None
    """The best of all scores up to score_before."""


@dataclass(frozen=True)
class StepInfo:
    """What else is known of a trained-on step, for journal, report and evaluations: nothing is trained on it."""

    actor_id: str = ""
    text: str = ""
    """The response, as text, with its thinking."""
    action: str = ""
    """As of `StepResult`, like what follows."""
    score_before: float | None = None
    best_before: float | None = None
    score_after: float | None = None
    log_tail: str = ""
    durations: Durations = field(default_factory=Durations)
    peak_mb: float = 0.0
    milestones: tuple[str, ...] = ()
    origin: Origin = Origin.RUN
    withheld: Withheld | None = None
    findings: Findings = ()
    fault: str = ""
    reward_parts: dict[str, float] = field(default_factory=dict)
    """What the reward is made of, by name."""
    generate_seconds: float = 0.0
    finished: float = 0.0
    """Unix time at which the step was complete."""


@dataclass(frozen=True)
class Told:
    """What a transition that is not masked tells of the state that it was tried from."""

    reward: float
    reached: Reached | None
    tried: str
    """As of `Transition`."""


@dataclass(frozen=True)
class Transition:
    """One trained-on step: a state's prompt, the policy's response and its reward."""

    id: str
    """Unique; the stream delivers each id exactly once."""
    group_id: str
    """Shared by the K responses sampled from one state."""
    state_id: str
    task_id: str
    prompt_ids: np.ndarray
    """int32 [P]."""
    response_ids: np.ndarray
    """int32 [R], the end token included when it was sampled."""
    behaviour_logprobs: np.ndarray
    """float32 [R]: log-probability of each response token under the policy that sampled it."""
    version_spans: tuple[tuple[int, int, int], ...]
    """(weight version, start, end) over response positions, end exclusive."""
    outcome: Outcome
    reward: float
    successor: State | None = None
    """The state it led to, where that is to join the state pool."""
    reached: Reached | None = None
    """Where it led in any case; None where the episode is over."""
    future: float = 0.0
    """What is expected to be earned from there on, discounted (`rl.discount`)."""
    info: StepInfo = field(default_factory=StepInfo)
    excluded: bool = False
    """It is suspicious or truncated, and `audit.mask` or `reward.truncated` leaves such ones out of training."""

    @property
    def tried(self) -> str:
        """What was tried: the same for actions of one kind that lead to the same files."""
        return f"{self.info.action}/{self.reached.snapshot if self.reached else ''}"

    @property
    def worth(self) -> float:
        """What is compared within a group."""
        return self.reward + self.future

    @property
    def masked(self) -> bool:
        """Whether its reward counts for nothing, and nothing is learned from it."""
        return self.excluded or self.outcome is Outcome.INFRA_FAILURE
