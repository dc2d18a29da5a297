"""The policy's end of a weight sync: gather a bucket, pack it, make all engines load it; finally a commit."""

import contextlib
import pickle
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import ray
import torch

from rpg_openrlhf.errors import NotFinite
from rpg_openrlhf.weight_sync.adapters import Adapter, quantization, unpacked
from rpg_openrlhf.weight_sync.plan import Bucket, checksum

WATCH_SECONDS = 0.05  # between two checks of the engines during a transfer that blocks


class WeightSender:
    """Weight sender of one rank. All ranks call `push` together; those without a transport only help to gather.

    engines: handles of SyncedEngine actors on rank 0, the only rank that calls them; empty on other ranks.
    gathered: a context in which the weights given to it are whole.
    is_whole: True if the plan holds all of the engines' weights.
    adapters: merged into their weights, which come first in the plan. After the first sync the other weights do not
    change and are not sent.
    """

    def __init__(
        self,
        plan: tuple[Bucket, ...],
        weights: dict[str, torch.nn.Parameter],
        engines: list[Any],
        transport: Any | None,
        gathered: Callable[[list[torch.nn.Parameter]], contextlib.AbstractContextManager],
        is_whole: bool,
        adapters: dict[str, Adapter],
    ):
        self.plan, self.engines, self.transport, self.gathered = plan, engines, transport, gathered
        self.weights = [[weights[piece.name] for piece in bucket.pieces] for bucket in plan]
        self.adapters = [[adapters.get(piece.name) for piece in bucket.pieces] for bucket in plan]
        self.changing_buckets = sum(any(adapters) for adapters in self.adapters) or len(plan)
        self.version = 0
        if transport is None:
            return
        self._places = [[bucket.views(buffer) for bucket in plan] for buffer in transport.buffers]
        if engines:
            spec = pickle.dumps((plan, transport.address, is_whole))
            self._finish("open_weights", [engine.open_weights.remote(spec) for engine in engines])

    def nbytes(self) -> int:
        """Bytes that the last push brought to each engine."""
        return sum(bucket.nbytes for bucket in self.plan[: self._buckets()])

    def _buckets(self) -> int:
        """Number of buckets, from the first on, in the push of this version."""
        return self.changing_buckets if self.version > 1 else len(self.plan)

    def push(self) -> None:
        """Send the current weights to every engine. If this fails midway, engines refuse to generate."""
        self.version += 1
        checksums: list[int] = []
        loading: deque[list[ray.ObjectRef]] = deque()  # the engine calls of each slot in use, the oldest first
        for index, weights in enumerate(self.weights[: self._buckets()]):
            adapters = filter(None, self.adapters[index])
            adapter_weights = [weight for adapter in adapters for weight in (adapter.down, adapter.up)]
            with self.gathered([*weights, *adapter_weights]):
                if self.transport:
                    checksums += self._send(index, weights, loading)
        while loading:
            self._wait(loading)
        if self.engines:
            calls = [engine.commit_weights.remote(self.version, checksums) for engine in self.engines]
            self._finish("commit_weights", calls)

    @torch.no_grad()
    def _send(self, index: int, weights: list[torch.nn.Parameter], loading: deque) -> list[int]:
        if len(loading) == self.transport.slots:
            self._wait(loading)
        slot, nbytes = index % self.transport.slots, self.plan[index].nbytes
        self._pack(index, slot, weights)
        if self.engines:
            check_finite([piece.name for piece in self.plan[index].pieces], self._places[slot][index])
        self.transport.fence()
        # Computed before the transfer: after it a GPU waits until every engine has taken part, and one may fail.
        sums = [checksum(self.transport.buffers[slot][:nbytes])] if self.engines else []
        # All engines are called before any is waited for.
        calls = [engine.load_bucket.remote(self.version, index, slot) for engine in self.engines]
        loading.append(calls)
        if self.transport.send_blocks:
            self._send_watching(slot, nbytes, calls)
        else:
            self.transport.send(slot, nbytes)
        return sums

    def _pack(self, index: int, slot: int, weights: list[torch.nn.Parameter]) -> None:
        places, adapters = self._places[slot][index], self.adapters[index]
        if not any(adapters) and all(quantization(weight) is None for weight in weights):
            torch._foreach_copy_(places, [weight.data for weight in weights])
            return
        for place, weight, adapter in zip(places, weights, adapters, strict=True):
            values = unpacked(weight)
            place.copy_(adapter.merged(values) if adapter else values)

    def _send_watching(self, slot: int, nbytes: int, calls: list[ray.ObjectRef]) -> None:
        """Run a transfer that blocks until every engine takes part; raise as soon as one has failed."""
        failures: list[BaseException] = []

        def send() -> None:
            try:
                self.transport.send(slot, nbytes)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(WATCH_SECONDS)
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=0) if calls else ([], [])
            self._finish("load_bucket", calls, done)
        if failures:
            raise failures[0]

    def _wait(self, loading: deque) -> None:
        """Wait until no engine reads the oldest slot any more, then synchronize the ranks."""
        self._finish("load_bucket", loading.popleft())
        self.transport.fence()

    def _finish(self, what: str, calls: list[ray.ObjectRef], done: list[ray.ObjectRef] | None = None) -> None:
        """Wait for the engines' calls, or only check those in `done`; raise the first error at once."""
        left = list(calls) if done is None else list(done)
        while left:
            done, left = ray.wait(left, num_returns=1)
            try:
                ray.get(done)
            except Exception as error:
                number = calls.index(done[0])
                raise RuntimeError(
                    f"weight sync {self.version}: engine {number} of {len(calls)} failed in {what}: {_cause(error)}"
                ) from error


def _cause(error: Exception) -> str:
    """The engine's error on one line, without the traceback that Ray adds."""
    return " ".join(str(getattr(error, "cause", None) or error).strip().splitlines()[-1].split())[:300]


def check_finite(names: list[str], weights: list[torch.Tensor]) -> None:
    """Raise NotFinite with the name of a weight that is not finite, in one pass over all weights."""
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(weights)])
    finite = torch.isfinite(norms).tolist()
    if not all(finite):
        raise NotFinite(
            f"weight {names[finite.index(False)]} of the policy is not finite: training has diverged. Lower "
            "--actor.adam.lr or --actor.max_norm, and resume from an earlier checkpoint"
        )
