"""What the learner waited for: the seconds of its wait for a batch, by what the last of the batch was doing meanwhile.

A batch is complete with the last of its members (of an episode: its last action), so that one's way is the critical
path. It is walked back from its end, each part as long as it was measured: grading, running, restoring, queueing,
sampling; what of each lies within the wait counts. Before it began, it had no leave yet (`rl.max_staleness`) or no
actor was free for it: `admission`, where unmeasured gaps between its parts show as well. What is left is `other`: its
way to the learner after its end. Invariant: the parts add up to the wait. The clocks of the nodes are taken to agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from envs.records import Origin, Transition
from learner.figures.text import percent

PARTS = ("admission", "generate", "queue", "restore", "execute", "grade", "other")
WORDS = {
    "admission": ("admission",), "sampling": ("generate",), "queue": ("queue",),
    "experiments": ("restore", "execute", "grade"), "other": ("other",),
}  # fmt: skip
"""How the parts are summed up for people."""
LEAST = 0.01
"""Share of a step below which a part is not worth a word."""


def waited_for(groups: Sequence[Sequence[Transition]], asked: float, received: float) -> dict[str, float]:
    """Seconds of each of `PARTS` within the wait for these groups. asked, received: Unix times."""

    def within(start: float, end: float) -> float:
        return max(0.0, min(end, received) - max(start, asked))

    every = [transition for group in groups for transition in group]
    last = max(every, key=lambda transition: transition.info.finished)
    spent, began = dict.fromkeys(PARTS, 0.0), received
    for transition in every:
        if _member(transition) == _member(last):
            end = transition.info.finished
            for part, seconds in _backwards(transition):
                spent[part] += within(end - seconds, end)
                end -= seconds
            began = min(began, end)
    spent["admission"] = within(asked, began)
    spent["other"] = max(0.0, received - asked - sum(spent.values()))
    return spent


def in_words(parts: Mapping[str, float], publish: float, seconds: float) -> str:
    """Such as `waits 62%: queue 41%, sampling 21%; publishes 12%`: shares of `seconds` that learner steps took."""
    if not seconds:
        return ""
    shares = {word: sum(parts.get(part, 0.0) for part in of) / seconds for word, of in WORDS.items()}
    largest = sorted((word for word in shares if shares[word] >= LEAST), key=lambda word: -shares[word])
    why = ", ".join(f"{word} {percent(shares[word])}" for word in largest)
    waits = f"waits {percent(sum(shares.values()))}" + (f": {why}" if why else "")
    return f"{waits}; publishes {percent(publish / seconds)}"


def _member(transition: Transition) -> list[str]:
    """Group and number of the response, or of the episode that it is an action of (`group/number/action`)."""
    return transition.id.split("/")[:2]


def _backwards(transition: Transition) -> Iterator[tuple[str, float]]:
    if transition.info.origin is not Origin.CACHE:  # whose durations are those of an earlier run
        spent = transition.info.durations
        yield from (("grade", spent.grade), ("execute", spent.execute), ("restore", spent.restore))
        yield "queue", spent.queue
    yield "generate", transition.info.generate_seconds
