"""How agents act: along a path or in a search, with one action a step and seeds of their own."""

import asyncio
import random
from dataclasses import replace

import pytest

from actors.agents import ENDPOINT, Agent, Agents, random_idea
from actors.attempts import STRIDE, Answer, Tree, Trial, greedy, straight
from actors.policy.endpoint import EndpointError
from envs.prompt import PromptError
from envs.records import Direction, Durations, Outcome, State, StepResult
from learner.config.load import load
from tests.openai_server import serving
from tests.unit.actors.expert.test_expert import script_of, task_of

START = State("start", "t", "s0", score=0.5, reference=0.5)


class World:
    """Scores by action text; an agent that says what it is told to, in turn."""

    def __init__(self, *texts: str, outcomes: dict[str, Outcome] | None = None):
        self.texts, self.outcomes = list(texts), outcomes or {}
        self.asked: list[tuple[str, int]] = []

    async def propose(self, state: State, seed: int) -> Answer:
        self.asked.append((state.id, seed))
        text = self.texts[len(self.asked) - 1]
        if text == "too long":
            raise PromptError("over the budget")
        if text == "no answer":
            raise EndpointError("the model is away")
        return Answer(text, 10, 5, 0.1)

    async def apply(self, state: State, answer: Answer) -> StepResult:
        text = answer.text
        outcome = self.outcomes.get(text, Outcome.EDITED)
        score = float(text) if outcome is Outcome.EDITED and text[0].isdigit() else None
        after = State(f"{state.id}>{text}", "t", "s", score=score, reference=state.reference)
        return StepResult(text, outcome, state.reference, score, "", "the disk is full", Durations(), after)


def trial(steps: int) -> Trial:
    return Trial("episode", "t", None, steps, seed=7)


def follow(world: World, steps: int, search=None):
    if search:
        return asyncio.run(search(world.propose, world.apply, trial(steps), START, Direction.MAXIMIZE))
    return asyncio.run(straight(world.propose, world.apply, trial(steps), START))


def test_an_episode_goes_on_from_where_each_action_led_with_a_new_seed():
    world = World("0.6", "0.7", "0.1")
    path, failure = follow(world, 3)
    assert world.asked == [("start", 7), ("start>0.6", 7 + STRIDE), ("start>0.6>0.7", 7 + 2 * STRIDE)]
    assert [result.score_after for _, result in path] == [0.6, 0.7, 0.1] and failure == ""


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, 5), (3.0, 2), (3.1, 3), (99.0, 5)])
@pytest.mark.parametrize("searches", [False, True])
def test_no_action_is_begun_once_the_time_of_an_episode_is_used_up(seconds, steps, searches):
    """Each takes a second to write and half a second to run; what it waited for does not count."""
    world = World("0.6", "0.7", "0.8", "0.9", "1.0")

    async def propose(state: State, seed: int) -> Answer:
        return replace(await world.propose(state, seed), seconds=1.0)

    async def apply(state: State, answer: Answer) -> StepResult:
        return replace(
            await world.apply(state, answer), durations=Durations(queue=50, restore=0.1, execute=0.3, grade=0.1)
        )

    timed = replace(trial(5), seconds=seconds)
    acts = (
        greedy(propose, apply, timed, START, Direction.MAXIMIZE) if searches else straight(propose, apply, timed, START)
    )
    path, failure = asyncio.run(acts)
    assert (len(path), failure) == (steps, "")


@pytest.mark.parametrize(
    ("last", "outcomes", "steps", "reason"),
    [
        ("final answer", {"final answer": Outcome.NEUTRAL}, 2, ""),
        ("too long", {}, 1, ""),
        ("no answer", {}, 1, "the model is away"),
        ("lost", {"lost": Outcome.INFRA_FAILURE}, 1, "the disk is full"),
    ],
)
def test_what_ends_an_episode_and_what_cuts_it(last, outcomes, steps, reason):
    path, failure = follow(World("0.6", last, "0.9", outcomes=outcomes), 3)
    assert (len(path), failure) == (steps, reason)


def test_a_search_drafts_first_and_then_improves_the_best():
    world = World("0.4", "0.8", "0.7", "0.6", "0.9", "0.95")
    path, _ = follow(world, 6, greedy)
    parents = [state for state, _ in world.asked]
    assert parents == ["start", "start", "start>0.8", "start>0.8", "start>0.8", "start>0.8>0.9"]
    assert len(path) == 6


def test_a_search_spends_no_more_than_its_budget_and_stops_where_it_is_cut():
    world = World("0.6", "lost", "0.7", outcomes={"lost": Outcome.INFRA_FAILURE})
    path, failure = follow(world, 3, greedy)
    assert (len(path), failure, len(world.asked)) == (1, "the disk is full", 2)


def test_a_broken_solution_is_mended_by_chance_but_not_for_ever():
    """start → broken 1 → broken 2 → broken 3 → broken 4: the fourth is given up, as is one that was worked on."""
    tree = Tree(START, Direction.MINIMIZE, drafts=1)
    chosen = set()
    for parent in range(3):
        tree.add(parent, State(f"broken {parent + 1}", "t", "s"))
        chosen = {tree.choose(random.Random(seed)) for seed in range(40)}
        assert chosen == {0, parent + 1}
    tree.add(3, State("broken 4", "t", "s"))
    assert {tree.choose(random.Random(seed)) for seed in range(40)} == {0}


def test_the_best_is_the_least_where_less_is_better():
    tree = Tree(START, Direction.MINIMIZE, drafts=1)
    for score in (0.7, 0.3, 0.3):
        tree.add(0, State("", "t", "s", score=score))
    assert tree.choose(random.Random(0)) == 2


def test_a_random_idea_is_another_each_time_and_as_long_as_allowed():
    wine, script = task_of("wine"), script_of("wine")

    def written(seed: int, script: str = script, longest: int = 400) -> str:
        return random_idea(wine, script, script, random.Random(seed), lambda text: len(text) < longest)

    found = {written(seed) for seed in range(20)}
    assert len(found) > 10 and all("Action: Edit" in text and len(text) < 400 for text in found)
    assert "Inspect" in written(0, longest=10) and "Inspect" in written(0, script="def (")


def test_a_model_behind_an_endpoint_answers_with_the_tokens_that_it_used():
    wine, script = task_of("wine"), script_of("wine")
    agents = Agents("actor-0", load(["rl.temperature=0.5", "experts.response=300"]), [wine], "", "", 0)
    with serving() as server:
        server.answers = ["<think>\nAction: Undo?\n</think>\n\nThought: look\nAction: Inspect\n"]
        agent = Agent("a", ENDPOINT, "a-model", server.url)
        answer = agents._asked(agent, wine, START, {wine.script: script}, 7)
    asked = server.asked[-1]
    assert answer.text == "Thought: look\nAction: Inspect\n"
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("a-model", 0.5, 300)
    assert (answer.prompt_tokens, answer.response_tokens) == (11, 7) and answer.seconds > 0
