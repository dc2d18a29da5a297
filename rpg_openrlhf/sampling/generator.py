"""Generator of samples with a fixed order of prompts and numbered draws, so that a run can resume from any step."""

import contextlib
import zlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import ray
import torch
from torch.utils.data import Sampler

from rpg_openrlhf.sampling.dynamic_sampling import DynamicSamplesGenerator, Prompts
from rpg_openrlhf.sampling.samples import Sample


class PromptOrder(Sampler[int]):
    """Permutation of the prompts for each episode, which depends only on (seed, episode), from any position on."""

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed
        self.begin(0, 0)

    def begin(self, episode: int, position: int) -> None:
        """Set the next iteration: the episode's order without its first `position` prompts."""
        self.episode, self.position = episode, position

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {self.episode}".encode()))
        return iter(torch.randperm(self.size, generator=generator)[self.position :].tolist())

    def __len__(self) -> int:
        return self.size


class NumberedEngine:
    """Engine handle for upstream's generator: it adds a number to each request and leaves the tokenizer out.

    Upstream pickles the tokenizer into every request, 129 ms each with 151k tokens; here the engine already holds it.
    """

    def __init__(self, engine, number: Callable[[], str]):
        self._engine, self._number = engine, number
        self.generate_responses = SimpleNamespace(remote=self._generate_responses)

    def __getattr__(self, name: str):
        return getattr(self._engine, name)

    def _generate_responses(self, *, hf_tokenizer, **request):
        return self._engine.generate_responses.remote(draw=self._number(), **request)


class RPGSamplesGenerator(DynamicSamplesGenerator):
    """Differs from upstream in the order of prompts and in numbering draws, so that a run can resume from any step.

    It also returns no partial rollout: see _next_rollout().
    """

    def __init__(self, strategy, prompts_dataloader, eval_dataloader, tokenizer, vllm_engines):
        """Take the data and the collation of upstream's `prompts_dataloader`."""
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
        self.episode, self.position = 0, 0  # position: prompts drawn in this episode
        self._evaluated = None  # prompts drawn in the current evaluation; None outside of one
        self._dataloader_iter, self._sample_buffer = None, []
        self.ended = False  # True if the run takes no more rollouts, even if its episodes have prompts left
        self.rollouts_left: int | None = None  # until the run ends; None: as many as the episodes give
        self.before_the_next: Callable[[], None] | None = None  # called once, before a resumed run's first rollout

    def _number(self) -> str:
        if self._evaluated is not None:
            self._evaluated += 1
            return f"eval {self._evaluated}"  # the same numbers in every evaluation: only the policy differs
        self.draws += 1
        return str(self.draws)

    def _dispatch_prompts_to_vllm(self, *args, **kwargs):
        """Differs from upstream: waits until every engine has the tokenizer."""
        ray.get(self._holding)
        return super()._dispatch_prompts_to_vllm(*args, **kwargs)

    def _generate_vllm(self, dataloader_iter, num_prompts, dynamic_filtering, **generate_kwargs):
        """Differs from upstream: an evaluation is one pass, without a barrier after every few prompts.

        A rollout draws as many prompts as it still lacks.
        """
        if self._evaluated is not None:
            num_prompts = len(self.eval_dataloader)
        else:
            self.carried_prompts = len(self._sample_buffer) // self.args.rollout.n_samples_per_prompt
            num_prompts -= self.carried_prompts
        return super()._generate_vllm(dataloader_iter, num_prompts, dynamic_filtering, **generate_kwargs)

    def _process_response_into_experience(self, response, **generate_kwargs):
        """Differs from upstream: a response in columns stays as it is."""
        if isinstance(response, Sample):
            return response
        return super()._process_response_into_experience(response, **generate_kwargs)

    def generate_samples(self, **generate_kwargs):
        """Differs from upstream: calls `before_the_next` first, and a run may end before its episodes do."""
        if self.before_the_next:
            first, self.before_the_next = self.before_the_next, None
            first()
        return ([], None, 0, True) if self.ended else self._next_rollout(**generate_kwargs)

    def _next_rollout(self, **generate_kwargs):
        """Sample a rollout in the order of the episode, and advance the position in it.

        An incomplete rollout at the end of an episode is filled with the first prompts of the next episode, under the
        same weights. Upstream trains on it as it is: samples that fill no optimizer step are dropped silently, and a
        rank may get none. At the end of the run an incomplete rollout is dropped, with a note.
        """
        if self._dataloader_iter is None:
            self.order.begin(self.episode, self.position)
            self._dataloader_iter = Prompts(self.prompts_dataloader)
        samples, pass_rate, drawn, exhausted = super().generate_samples(**generate_kwargs)
        self.position += drawn
        if exhausted:
            self.episode, self.position = self.episode + 1, 0
            self._sample_buffer, samples = samples, []
            self._report_incomplete_rollout()
        if pass_rate is not None:  # upstream divides the accepted samples by the drawn prompts
            pass_rate /= self.args.rollout.n_samples_per_prompt
        return samples, pass_rate, drawn, exhausted

    def nothing_trained(self) -> str:
        """Message for a run that took no step, on one line."""
        prompts, batch = len(self.order), self.args.rollout.batch_size
        if not self.args.algo.dynamic_filtering_enable:
            episodes = self.args.train.num_episodes
            return f"nothing was trained: {prompts} prompts x {episodes} episodes fill no rollout of {batch}"
        low, high = self.args.algo.dynamic_filtering_range
        passed = len(self._sample_buffer) // self.args.rollout.n_samples_per_prompt
        return (
            f"nothing was trained: {self.draws} prompts were drawn and {passed} groups passed "
            f"--algo.dynamic_filtering_range {low:g} {high:g}, too few for a rollout of {batch}; check labels, reward "
            "and prompts, or leave out --algo.dynamic_filtering_enable"
        )

    def _report_incomplete_rollout(self) -> None:
        left = len(self._sample_buffer) // self.args.rollout.n_samples_per_prompt
        if not left:
            return
        wanted = self.args.rollout.batch_size
        if self.episode < self.args.train.num_episodes:
            text = (
                f"episode {self.episode} ended with {left} of a rollout's {wanted} prompts; the next episode fills it"
            )
        else:
            text = f"the run ended with {left} prompts, too few for a rollout of {wanted}: not trained on"
        self.strategy.progress.put({"kind": "note", "text": text})

    def generate_eval_samples(self, **generate_kwargs):
        """Differs from upstream: the draws of an evaluation are numbered separately."""
        self._evaluated = 0
        try:
            return super().generate_eval_samples(**generate_kwargs)
        finally:
            self._evaluated = None

    def sending(self) -> contextlib.AbstractContextManager:
        """Context of a weight sync. It does nothing here, since a sync comes between two rollouts."""
        return contextlib.nullcontext()

    def rollout_metrics(self) -> dict[str, float]:
        """Metrics of the rollout in training."""
        return self._counted(self.carried_prompts, self.given_back)

    def _counted(self, carried_prompts: int, given_back: int) -> dict[str, float]:
        counts = {"rollout/carried_prompts": carried_prompts, "rollout/given_back_prompts": given_back}
        return counts if self.args.algo.dynamic_filtering_enable else {"rollout/carried_prompts": carried_prompts}

    def state_dict(self) -> dict:
        """Position in the data, and samples that were not trained on yet."""
        kept = {name: getattr(self, name) for name in ("episode", "position", "draws")}
        return {**kept, "_sample_buffer": list(self._sample_buffer)}

    def load_state_dict(self, state: dict) -> None:
        """Restore the state of `state_dict()`."""
        self.episode, self.position, self.draws = state["episode"], state["position"], state["draws"]
        self._sample_buffer = state["_sample_buffer"]
