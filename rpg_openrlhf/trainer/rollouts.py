"""Prompts in an order of their own, numbered as they are drawn: what a rollout samples does not depend on when."""

import zlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import ray
import torch
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from torch.utils.data import Sampler

from rpg_openrlhf.trainer.samples import Sample


class PromptOrder(Sampler[int]):
    """Each episode's permutation of the prompts, which (seed, episode) alone decide, from any position on."""

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed
        self.begin(0, 0)

    def begin(self, episode: int, position: int) -> None:
        """What the next iteration yields: the episode's order without its first `position` prompts."""
        self.episode, self.position = episode, position

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {self.episode}".encode()))
        return iter(torch.randperm(self.size, generator=generator)[self.position :].tolist())

    def __len__(self) -> int:
        return self.size


class NumberedEngine:
    """An engine's handle as upstream's generator uses it: a request gets a number, and the tokenizer stays behind.

    Upstream pickles the tokenizer into every request, 129 ms each with 151k tokens; the engine has been given it.
    """

    def __init__(self, engine, number: Callable[[], str]):
        self._engine, self._number = engine, number
        self.generate_responses = SimpleNamespace(remote=self._generate_responses)

    def __getattr__(self, name: str):
        return getattr(self._engine, name)

    def _generate_responses(self, *, hf_tokenizer, **request):
        return self._engine.generate_responses.remote(draw=self._number(), **request)


class RPGSamplesGenerator(SamplesGenerator):
    """Differs from upstream in the order of prompts and in numbering draws, so that a run can go on from any step."""

    def __init__(self, strategy, prompts_dataloader, eval_dataloader, tokenizer, vllm_engines):
        """`prompts_dataloader` is upstream's, whose data and collation are kept."""
        prompts, args = prompts_dataloader.dataset, strategy.args
        self.order = PromptOrder(len(prompts), args.train.seed)
        loader = strategy.setup_dataloader(
            prompts,
            1,
            True,
            False,
            prompts.collate_fn,
            sampler=self.order,
            num_workers=args.data.dataloader_num_workers,
        )
        held = ray.put(tokenizer)
        self._holding = [engine.hold_tokenizer.remote(held) for engine in vllm_engines]
        engines = [NumberedEngine(engine, self._number) for engine in vllm_engines]
        super().__init__(strategy, loader, eval_dataloader, tokenizer, engines)
        self.episode, self.position = 0, 0  # prompts of the episode that were drawn
        self.draws, self._evaluated = 0, None  # prompts drawn since the start; in the evaluation under way
        self._dataloader_iter, self._sample_buffer = None, []
        self.before_the_next: Callable[[], None] | None = None  # what a resumed run has to do first

    def _number(self) -> str:
        if self._evaluated is not None:
            self._evaluated += 1
            return f"eval {self._evaluated}"  # the same numbers at every evaluation: what differs is the policy
        self.draws += 1
        return str(self.draws)

    def _dispatch_prompts_to_vllm(self, *args, **kwargs):
        """Differs from upstream: not before every engine has the tokenizer."""
        ray.get(self._holding)
        return super()._dispatch_prompts_to_vllm(*args, **kwargs)

    def _process_response_into_experience(self, response, **generate_kwargs):
        """Differs from upstream: an answer that came as columns stays one."""
        if isinstance(response, Sample):
            return response
        return super()._process_response_into_experience(response, **generate_kwargs)

    def generate_samples(self, **generate_kwargs):
        """Differs from upstream: an episode's order is of its number, and the place in it is counted."""
        if self.before_the_next:
            first, self.before_the_next = self.before_the_next, None
            first()
        if self._dataloader_iter is None and not self._sample_buffer:
            self.order.begin(self.episode, self.position)
        samples, pass_rate, drawn, exhausted = super().generate_samples(**generate_kwargs)
        self.position += drawn
        if exhausted:
            self.episode, self.position = self.episode + 1, 0
        return samples, pass_rate, drawn, exhausted

    def generate_eval_samples(self, **generate_kwargs):
        """Differs from upstream: its draws are numbered apart."""
        self._evaluated = 0
        try:
            return super().generate_eval_samples(**generate_kwargs)
        finally:
            self._evaluated = None

    def state_dict(self) -> dict:
        """The place in the data, and what was sampled and not yet trained on."""
        names = ("episode", "position", "draws", "_sample_buffer")
        return {name: getattr(self, name) for name in names} | {"drained": self._dataloader_iter is None}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict()`."""
        self.episode, self.position, self.draws = state["episode"], state["position"], state["draws"]
        self._sample_buffer = state["_sample_buffer"]
        if self._sample_buffer and not state["drained"]:
            self.order.begin(self.episode, self.position)
            self._dataloader_iter = iter(self.prompts_dataloader)
