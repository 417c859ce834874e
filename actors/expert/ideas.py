"""The idea pool of a task: from all that there is to try, the few ideas that differ most (arXiv 2505.23723).

Candidates are embedded as vectors; the pool is chosen greedily, each time the candidate farthest from all chosen so
far. Invariants: the same candidates and seed give the same pool; nothing is trained or run here.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from actors.expert import operators
from actors.expert.operators import Idea
from actors.expert.script import Script, Unreadable
from envs.errors import UserError
from envs.records import Task

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts → float [N, D], a row for each."""
TFIDF = "tfidf"
DRAWS = 20
"""Times that the settings of an idea are drawn to settle them."""
TIE = 1e-9
"""Difference of cosine distances that says nothing."""


class IdeaError(UserError):
    """Ideas that cannot be had; the message names the key or the task, and what to do."""


def candidates(task: Task, least: int) -> list[Idea]:
    """What the built-in operators have for the task's unchanged script: every idea with its settings left open.

    Where these are fewer than `least`, ideas with settled settings, and then pairs of them, take their place.

    Raises:
        IdeaError: the script does not parse.
    """
    try:
        script = Script((task.env_dir / task.script).read_text(), task)
    except Unreadable as error:
        raise IdeaError(f"task {task.id}: {error}") from error
    found = operators.ideas(script)
    if len(found) >= least:
        return found
    settled = _settled(found, script)
    return [*settled, *_pairs(settled, script, least - len(settled))]


def _settled(ideas: Sequence[Idea], script: Script) -> list[Idea]:
    """The ideas with settings drawn, as many of each as make different scripts."""
    by_script: dict[str, Idea] = {}
    for idea in ideas:
        for seed in range(DRAWS):
            one = replace(idea, seed=seed)
            if made := operators.change(one, script, random.Random(seed)):
                by_script.setdefault(made.text, replace(one, text=f"{idea.text}: {_added(script.text, made.text)}"))
    return list(by_script.values())


def _pairs(settled: Sequence[Idea], script: Script, wanted: int) -> list[Idea]:
    """Up to `wanted` pairs of ideas of different options that can be had together, in a fixed random order."""
    pairs = [(a, b) for a, b in itertools.permutations(settled, 2) if (a.operator, a.option) != (b.operator, b.option)]
    random.Random(0).shuffle(pairs)
    both = (replace(a, text=f"{a.text}; and {b.text}", then=b) for a, b in pairs)
    applicable = (idea for idea in both if operators.change(idea, script, random.Random(0)))
    return list(itertools.islice(applicable, max(0, wanted)))


def _added(before: str, after: str) -> str:
    old = set(before.splitlines())
    return " ".join(line.strip() for line in after.splitlines() if line not in old)


def pool(candidates: Sequence[Idea], size: int, embed: Embed, seed: int) -> list[Idea]:
    """The `size` candidates that differ most; all where there are fewer."""
    if len(candidates) <= size:
        return list(candidates)
    vectors = embed([f"{idea.operator}: {idea.text}" for idea in candidates])
    return [candidates[i] for i in farthest(vectors, size, seed)]


def farthest(vectors: np.ndarray, size: int, seed: int) -> list[int]:
    """Rows chosen greedily, each farthest (by cosine distance) from its nearest chosen one.

    The first, and one of several that are equally far, are drawn at random.

    vectors: float [N, D], D ≥ 1; N ≥ size ≥ 1.
    """
    rng = np.random.default_rng(seed)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms > 0, norms, 1.0)
    distance = np.full(len(unit), np.inf)
    chosen: list[int] = []
    while len(chosen) < size:
        far = np.flatnonzero(distance >= distance.max() - TIE)
        chosen.append(int(rng.choice(far)))
        distance = np.minimum(distance, 1.0 - unit @ unit[chosen[-1]])
        distance[chosen] = -np.inf
    return chosen


def seeds(ideas: Sequence[Idea], rng: random.Random) -> list[Idea]:
    """One to three random ideas of a pool, for one trajectory; none of an empty one."""
    return rng.sample(list(ideas), min(len(ideas), rng.randint(1, 3)))


def embedding(name: str, model: str, key_variable: str) -> Embed:
    """What `experts.embeddings` names: `tfidf`, the URL of an OpenAI-compatible endpoint, or a sentence-transformers
    model (a name or a folder).

    Raises:
        IdeaError: sentence-transformers is not installed, or has no such model.
    """
    if name == TFIDF:
        return tfidf
    if name.startswith(("http://", "https://")):
        return lambda texts: _asked(texts, name, model, key_variable)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise IdeaError(
            f"experts.embeddings={name} needs the package sentence-transformers: install it, or use tfidf"
        ) from error
    try:
        return SentenceTransformer(name).encode
    except (OSError, ValueError) as error:
        raise IdeaError(f"experts.embeddings={name}: there is no such sentence-transformers model: {error}") from error


def tfidf(texts: Sequence[str]) -> np.ndarray:
    """Words and pairs of words, weighted by how rare they are among the texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2)).fit_transform(texts).toarray()


def _asked(texts: Sequence[str], endpoint: str, model: str, key_variable: str) -> np.ndarray:
    """The embeddings of an endpoint. Raises IdeaError."""
    import openai

    client = openai.OpenAI(base_url=endpoint, api_key=os.environ.get(key_variable, "none"))
    try:
        answer = client.embeddings.create(model=model, input=list(texts))
    except openai.OpenAIError as error:
        raise IdeaError(f"the embeddings {model} at experts.embeddings={endpoint} failed: {error}") from error
    return np.array([one.embedding for one in answer.data])
