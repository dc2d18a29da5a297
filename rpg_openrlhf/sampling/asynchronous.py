"""Rollouts sampled in a thread while the policy trains: `--train.async_enable` with RPG.

The thread is at most `--train.async_queue_size` rollouts ahead of training; with 0 it samples on request, like the
synchronous trainer. One policy samples a whole rollout: new weights wait for its end. With
`--train.partial_rollout_enable` they do not wait: replies pause, and continue under the new weights. A checkpoint
holds the position in the data up to which the policy has trained. After a resume, prompts that were drawn ahead are
drawn again, so that no rollout is lost or trained on twice.

The thread changes no log-probs. π_old is the policy that sampled: `--rpg.old_policy rollout` is the default here, and
training/experience.py then takes the engines' log-probs in place of a forward pass.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from openrlhf.trainer.ray.vllm_engine import batch_vllm_engine_call

from rpg_openrlhf.sampling.generator import RPGSamplesGenerator


class Ahead(NamedTuple):
    """A rollout that waits for training; `error` is set if sampling it failed."""

    result: tuple
    version: int  # of the weights that sampled it
    state: dict  # of the generator after this rollout
    counts: tuple[int, int]  # carried_prompts and given_back
    waited: float  # seconds spent waiting for room in the queue and for the engines
    error: BaseException | None = None


class Turns:
    """Lock on the engines. A weight sync or an evaluation gets it before the next rollout."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy, self._urgent = False, 0

    @contextlib.contextmanager
    def turn(self, urgent: bool) -> Iterator[None]:
        """Hold the engines inside the context; an urgent caller goes first."""
        with self._changed:
            self._urgent += urgent
            self._changed.wait_for(lambda: not self._busy and (urgent or not self._urgent))
            self._urgent -= urgent
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()


class AsynchronousGenerator(RPGSamplesGenerator):
    """Differs from RPGSamplesGenerator in sampling in a thread, which the first request for a rollout starts."""

    def __init__(self, strategy, *args, **kwargs):
        super().__init__(strategy, *args, **kwargs)
        self.turns = Turns()
        self.version = 0  # of the weights that the engines hold
        self._room = threading.Semaphore(self.args.train.async_queue_size)
        self._ready: queue.SimpleQueue[Ahead] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._taken: Ahead | None = None  # the rollout in training, or the last one
        self._waited = 0.0
        self._ages: list[tuple[int, int]] = []  # per sample in training: versions behind at its first and last token

    def _next_rollout(self, **generate_kwargs):
        """Differs from RPGSamplesGenerator: takes the next rollout from the thread and makes room for another."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._draw, kwargs=generate_kwargs, daemon=True)
            self._thread.start()
        synchronous = self.args.train.async_queue_size == 0
        if synchronous:
            self._room.release()
        began = time.monotonic()
        taken = self._ready.get()
        self._waited = time.monotonic() - began
        if taken.error is not None:
            raise taken.error
        self._taken = taken
        version_of_rollout = taken.version, taken.version  # for samples without versions
        versions = [getattr(sample, "versions", version_of_rollout) for sample in taken.result[0]]
        # A resumed run counts from 0 again, so samples from its checkpoint may have a higher version.
        self._ages = [(max(0, self.version - first), max(0, self.version - last)) for first, last in versions]
        if not synchronous:
            self._room.release()
        return taken.result

    def _draw(self, **generate_kwargs) -> None:
        """Loop of the thread: sample until the run needs no more rollouts or an error occurs."""
        left = self.rollouts_left
        while self.episode < self.args.train.num_episodes and left != 0:
            began = time.monotonic()
            self._room.acquire()
            try:
                with self.turns.turn(urgent=False):
                    waited = time.monotonic() - began
                    result = super()._next_rollout(**generate_kwargs)
                    counts = self.carried_prompts, self.given_back
                    self._ready.put(Ahead(result, self.version, super().state_dict(), counts, waited))
            except BaseException as error:
                self._ready.put(Ahead((), self.version, {}, (0, 0), 0.0, error))
                return
            if left is not None:
                left -= bool(result[0])

    def rollout_metrics(self) -> dict[str, float]:
        """Metrics of the rollout in training."""
        if self._taken is None:
            return {}
        behind = [first for first, _ in self._ages] or [0]
        return {
            "async/staleness": sum(behind) / len(behind),
            "async/staleness_max": float(max(behind)),
            "async/of_several_policies": sum(first != last for first, last in self._ages) / len(behind),
            "async/training_waited": self._waited,
            "async/engines_waited": self._taken.waited,
            **self._counted(*self._taken.counts),
        }

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Hold back sampling during a weight sync, or pause the engines; then count a new version."""
        if not self.args.train.partial_rollout_enable:
            with self.turns.turn(urgent=True):
                yield
                self.version += 1
            return
        # Paused engines accept requests but answer none. After an error they stay paused, since the run ends.
        batch_vllm_engine_call(self.vllm_engines, "pause_generation")
        yield
        self.version += 1
        batch_vllm_engine_call(self.vllm_engines, "resume_generation")

    def generate_eval_samples(self, **generate_kwargs):
        """Differs from RPGSamplesGenerator: waits for the end of a rollout, since both use the same counters."""
        with self.turns.turn(urgent=True):
            return super().generate_eval_samples(**generate_kwargs)

    def state_dict(self) -> dict:
        """State after the rollout in training, without rollouts that were sampled since."""
        return self._taken.state if self._taken else super().state_dict()
