"""vLLM's side of weight transfer without an engine around it: what it loads, renews, verifies, and with whom it ends.

The memory file and vLLM's factory and reload are real; cards, NCCL's group and the model are others. What a whole
engine does with it is in test_policy.py, what damage does in test_damaged_weights.py.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from actors.policy import arguments, card, sums
from actors.policy.policy import Shelf
from actors.policy.weights import pack, sha256_of
from learner.config.schema import Config

TENSORS = {name: torch.full((3, 5), float(number)) for number, name in enumerate(["a", "b", "c", "d"])}
PATIENCE = 60.0
"""Seconds for a process to end: it takes some thousandths."""


@pytest.fixture(scope="module")
def module() -> ModuleType:
    from actors.policy import weights_engine  # vLLM, which collecting the tests need not load

    return weights_engine


class Model(torch.nn.Module):
    """Takes weights as vLLM's do; one head is tied."""

    def __init__(self, heads: Iterable[torch.nn.Module] = ()) -> None:
        super().__init__()
        self.norm = torch.nn.Linear(4, 2, bias=False)
        self.heads = torch.nn.ModuleList(heads)
        self.loaded: dict[str, torch.Tensor] = {}

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in weights:
            self.loaded[name] = tensor.clone()
            if name == "norm.weight":
                self.norm.weight.weight_loader(self.norm.weight, tensor)


@pytest.fixture
def started(module, monkeypatch) -> Callable[..., Any]:
    """Makes an engine as vLLM's worker does, from what the actor says."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    monkeypatch.setattr(os, "environ", dict(os.environ))
    arguments.set_environment(Config())
    actors: list[int] = []
    monkeypatch.setattr(module, "end_with", actors.append)
    module.OPENED.clear()

    def start(model: torch.nn.Module | None = None, device: str = "cpu") -> Any:
        wanted = arguments.engine_arguments(Config(), "")["weight_transfer_config"]
        vllm_config = SimpleNamespace(parallel_config="parallel", model_config=SimpleNamespace(dtype=torch.float32))
        model = model or Model()
        engine = WeightTransferEngineFactory.create_engine(wanted, vllm_config, torch.device(device), model)
        assert actors == [os.getpid()], "it ends with its actor"
        actors.clear()
        return engine

    return start


@pytest.fixture
def synchronised(monkeypatch) -> list[str]:
    """A line for each time that a card was waited for."""
    times: list[str] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: times.append("waited"))
    return times


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_in_the_memory_file_is_loaded_onto_the_engines_device(started, synchronised, device):
    engine = started(device=device)
    engine.update_weights(Shelf().put(list(pack(TENSORS.items(), 100, 1))))
    assert list(engine.model.loaded) == list(TENSORS)
    assert {tensor.device.type for tensor in engine.model.loaded.values()} == {device}
    if device == "cpu":
        assert all(torch.equal(engine.model.loaded[name], tensor) for name, tensor in TENSORS.items())
    assert len(synchronised) == (device != "cpu"), "where there is an accelerator, it has ended before the answer"


def test_what_is_broadcast_is_received_as_vllm_describes_it(started, synchronised, monkeypatch):
    engine, received = started(), []
    monkeypatch.setattr(engine, "receive_weights", received.append)
    engine.update_weights({"names": ["a"], "dtype_names": ["float32"], "shapes": [[3, 5]]})
    assert [(info.names, info.dtype_names, info.shapes) for info in received] == [(["a"], ["float32"], [[3, 5]])]


def test_a_new_group_takes_the_place_of_the_one_before(started, monkeypatch):
    from vllm.distributed.weight_transfer import nccl_engine

    engine, destroyed = started(), []

    def joined(info: Any, parallel: Any) -> Any:
        assert parallel == "parallel"
        return SimpleNamespace(port=info.master_port, destroy=lambda: destroyed.append(info.master_port))

    monkeypatch.setattr(nccl_engine, "worker_init_process_group", joined)
    for port in (1, 2):
        info = {"master_address": "host", "master_port": port, "rank_offset": 1, "world_size": 2}
        engine.init_transfer_engine(engine.parse_init_info(info))
        assert engine.model_update_group.port == port
    assert destroyed == [1]


class Cards:
    """In the place of the learner's memory on a card: by version."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[int] = []
        self.tensors = dict(TENSORS)
        self.device: torch.device | None = None
        monkeypatch.setattr(card, "open_shared", self.open_shared)

    def open_shared(self, update_info: dict[str, Any], device: torch.device) -> list[tuple[str, torch.Tensor]]:
        self.opened.append(update_info["version"])
        self.device = device
        return list(self.tensors.items())

    def update(self, version: int) -> dict[str, Any]:
        return {"card": "GPU-1", "version": version, "checksums": sums.sums(TENSORS.values())}


@pytest.fixture
def cards(monkeypatch) -> Cards:
    return Cards(monkeypatch)


def worker(module: ModuleType, **attributes: Any) -> Any:
    extension = module.WorkerExtension()
    vars(extension).update(attributes)
    return extension


def test_weights_on_a_card_are_opened_once_verified_and_loaded(module, started, cards):
    engine, verifier = started(), worker(module, device=torch.device("cpu"))
    for version in (5, 6):
        assert verifier.verify_weights(cards.update(version)) is None
        assert cards.device == verifier.device
        engine.update_weights(cards.update(version))
        assert all(engine.model.loaded[name] is not tensor for name, tensor in TENSORS.items())
        assert all(torch.equal(engine.model.loaded[name], tensor) for name, tensor in TENSORS.items())
        assert list(module.OPENED) == [version], "no other version's memory is held"
    engine.finish_weight_update()
    assert cards.opened == [5, 6] and not module.OPENED
    engine.update_weights(cards.update(7))  # one that is not checked
    assert cards.opened == [5, 6, 7] and cards.device == engine.device


def test_damaged_weights_on_a_card_are_named(module, started, cards):
    cards.tensors = {name: tensor + 1 for name, tensor in TENSORS.items()}
    assert worker(module, device=None).verify_weights(cards.update(5)) == "a, b, c differ from what the learner has"


def test_an_update_goes_through_vllms_reload(started):
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading
    from vllm.model_executor.model_loader.weight_utils import default_weight_loader

    model = Model()
    model.norm.weight.weight_loader = default_weight_loader
    record_metadata_for_reloading(model)
    engine, served = started(model), model.norm.weight
    new = {"norm.weight": torch.arange(8.0).view(2, 4)}
    engine.start_weight_update()
    assert model.norm.weight.is_meta
    engine.update_weights(Shelf().put(list(pack(new.items(), 100, 1))))
    engine.finish_weight_update()
    assert torch.equal(model.norm.weight, new["norm.weight"])
    assert model.norm.weight.data_ptr() == served.data_ptr(), "in the memory that requests in flight read"
    engine.start_weight_update()
    engine.finish_weight_update()
    assert torch.equal(model.norm.weight, new["norm.weight"]), "a layer that is sent nothing serves what it did"


def test_only_heads_that_are_as_they_were_loaded_are_renewed_after_each_update(module, started):
    renewed = []

    class Packed(module.UnquantizedEmbeddingMethod):
        def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
            renewed.append(layer)

    class Head(module.ParallelLMHead):
        def __init__(self, method: Any) -> None:
            torch.nn.Module.__init__(self)
            self.quant_method = method

    class Quantized:
        process_weights_after_loading = None

    head, embeddings = Head(Packed()), torch.nn.Linear(1, 1)
    embeddings.quant_method = Packed()
    started(Model([head, Head(Quantized()), embeddings])).finish_weight_update()
    assert renewed == [head]


def test_digests_are_of_what_is_served_as_it_was_sent(module):
    model = torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(6), "linear": torch.nn.Linear(6, 6)})
    found = worker(module, model_runner=SimpleNamespace(get_model=lambda: model)).norm_digests()
    assert found == {"norm.weight": sha256_of(model["norm"].weight)}


def test_vllms_kernels_for_norms_are_allowed_wherever_it_is_imported(module):
    from actors.policy import kernels

    assert torch.ops._C and kernels.OPERATIONS
    for operation in kernels.OPERATIONS:
        assert operation.impls["vllm_c"].supported == hasattr(torch.ops._C, operation.name)


def forked(action: Callable[[], None]) -> int:
    """Process id of a child that does it, and then waits for ever."""
    if child := os.fork():
        return child
    try:
        action()
        while True:
            signal.pause()
    finally:
        os._exit(1)


def ended(process: int, seconds: float = PATIENCE) -> bool:
    """Whether it ended, also where nobody has asked how; process: a descriptor of it."""
    return bool(select.select([process], [], [], seconds)[0])


@pytest.fixture
def family(module) -> Iterator[Callable[[int], tuple[int, list[int]]]]:
    """Starts an actor with that many generations below it, the last of which ends with it: its pid, and theirs."""
    begun: list[int] = []

    def start(generations: int) -> tuple[int, list[int]]:
        reading, writing = os.pipe()

        def generation(actor: int, left: int) -> None:
            if not left:
                module.end_with(actor)
            os.write(writing, os.getpid().to_bytes(4))
            if left:
                forked(lambda: generation(actor, left - 1))

        begun.append(forked(lambda: generation(os.getpid(), generations)))
        pids = [int.from_bytes(os.read(reading, 4)) for _ in range(generations + 1)]
        os.close(reading)
        os.close(writing)
        begun[1:] = pids[1:]
        return begun[0], pids[1:]

    yield start
    for pid in begun:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("generations", [1, 2], ids=["in the actor's child", "in a worker of the engine's core"])
def test_the_engines_processes_end_with_the_actor_and_not_before(family, generations):
    actor, engine = family(generations)
    descriptors = [os.pidfd_open(pid) for pid in engine]
    assert not any(ended(descriptor, 0.2) for descriptor in descriptors)
    os.kill(engine[-1], signal.SIGSTOP)  # so that the actor is gone altogether before anyone hears of its end
    os.kill(actor, signal.SIGKILL)
    os.waitpid(actor, 0)
    os.kill(engine[-1], signal.SIGCONT)
    assert all(ended(descriptor) for descriptor in descriptors)
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_process_that_ends_by_itself_does_not_wait_for_the_actor(module):
    process = multiprocessing.get_context("fork").Process(target=module.end_with, args=(os.getpid(),))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0


REFUSED = 42


def test_an_engine_does_not_start_for_an_actor_that_has_ended(module):
    """In a process below one of its own, so that an engine that does start ends neither this one nor its parent."""
    forks = multiprocessing.get_context("fork")

    def engine(actor: int) -> None:
        with pytest.raises(RuntimeError, match=f"process {actor}"):
            module.end_with(actor)
        os._exit(REFUSED)

    def core() -> None:
        actor = os.fork() or os._exit(0)
        os.waitid(os.P_PID, actor, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        process = forks.Process(target=engine, args=(actor,))
        process.start()
        process.join()
        os._exit(process.exitcode)

    process = forks.Process(target=core)
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == REFUSED


def test_a_memory_file_is_mapped_once(module, tmp_path: Path):
    (tmp_path / "file").write_bytes(bytes(range(100)))
    mapped = module._mapped(str(tmp_path / "file"), 100)
    assert mapped.tolist() == list(range(100)) and module._mapped(str(tmp_path / "file"), 100) is mapped
