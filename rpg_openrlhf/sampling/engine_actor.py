"""The vLLM actor, with engine arguments that have no flag upstream, a seed per sample, and checked rewards."""

import asyncio
import copy
import itertools
import os
import zlib
from contextvars import ContextVar
from dataclasses import dataclass

from openrlhf.utils.agent import SingleTurnAgentExecutor

from rpg_openrlhf import garbage
from rpg_openrlhf.sampling.lean_requests import OncePerPrompt, lean, readable
from rpg_openrlhf.sampling.reward_check import CheckedRewards
from rpg_openrlhf.sampling.samples import pack
from rpg_openrlhf.weight_sync.engine import SyncedEngine


@dataclass
class Drawing:
    """A sample that is being drawn."""

    name: str
    turns: int = 0  # number of requests to the engine so far
    versions: tuple[int, int] = (0, 0)  # of the weights, at the first request and at the last answer


_sample: ContextVar[Drawing] = ContextVar("sample")


class RPGRolloutActor(SyncedEngine):
    """Differs from upstream's RolloutRayActor, beyond SyncedEngine, in engine arguments, seeds and reward checks."""

    engine_overrides: dict = {}  # noqa: RUF012  (replace upstream's arguments; install.py sets them on a subclass)
    sampling_seed: int | None = None  # of each sample, under --train.full_determinism_enable; set like the overrides
    resumed_step: int = 0  # the step that the run resumes from
    reward_source: str = "the reward"  # its name in errors; set like the overrides

    async def __init__(self, *args, **kwargs):
        self._tokenizer, self._requests = None, itertools.count()
        self._under_way: dict[str | int, asyncio.Future] = {}  # by draw
        if self.resumed_step:  # with its first seed the engine would draw the numbers of the first steps again
            kwargs["seed"] = zlib.crc32(f"{kwargs['seed']} {self.resumed_step}".encode())
        await super().__init__(*args, **{**kwargs, **self.engine_overrides})
        garbage.as_usual()
        self._is_lean = type(self.executor) is SingleTurnAgentExecutor  # an agent may read any output
        self._rewards = self._check_rewards() if self._is_lean else None
        self._watch = asyncio.create_task(self._exit_with_engine())

    def _check_rewards(self) -> CheckedRewards | None:
        """Wrap the executor's reward function or reward server in checks. Upstream logs its errors and continues."""
        if not self.executor.reward_endpoints:
            return None
        name = "_fetch_rewards_via_func" if self.executor.reward_func else "_fetch_rewards_via_http"
        rewards = CheckedRewards(getattr(self.executor, name), self.reward_source)
        setattr(self.executor, name, rewards)
        return rewards

    async def _exit_with_engine(self) -> None:
        """Exit when the engine has died: the driver notices a dead actor, but not a dead engine."""
        while not self.llm.errored:
            await asyncio.sleep(1)
        print(f"vLLM's engine died: {self.llm.dead_error}", flush=True)
        os._exit(1)

    async def hold_tokenizer(self, tokenizer) -> None:
        """Keep the tokenizer for later requests; upstream sends it with each one."""
        self._tokenizer = OncePerPrompt(tokenizer)

    async def generate_responses(self, *, sampling_params, num_samples=1, draw=None, hf_tokenizer=None, **request):
        """Differs from upstream: `draw` is the prompt's number, from which each of its samples gets a name.

        Without `draw` (upstream's asynchronous trainer, which also sends the tokenizer) prompts are numbered in order
        of arrival. With `draw` the responses are packed into columns if they fit.

        Log-probs of the sampled tokens are requested whenever the engine was built to return them: upstream's
        SamplesGenerator requests them only for its mismatch correction, and `--rpg.old_policy rollout` needs them too.
        """
        if self.kwargs.get("logprobs_mode") and sampling_params.logprobs is None:
            sampling_params = copy.copy(sampling_params)
            sampling_params.logprobs = 1
        name = next(self._requests) if draw is None else draw
        request |= {"sampling_params": sampling_params, "hf_tokenizer": hf_tokenizer or self._tokenizer}
        drawing = asyncio.gather(*(self._draw_one(f"{name} {k}", request) for k in range(num_samples)))
        self._under_way[name] = drawing
        try:
            answers = await drawing
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # the call itself was cancelled, not only its samples
                raise
            return None
        finally:
            del self._under_way[name]
        if self._rewards is not None:
            self._rewards.raise_fault()
        responses = [response for answer in answers for response in answer]
        return responses if draw is None or not self._is_lean else pack(responses, request["max_length"])

    async def abandon(self, draws: list[str]) -> None:
        """Cancel those of `draws` that are under way here, and wait for their end. Their calls return None."""
        works = [self._under_way[draw] for draw in draws if draw in self._under_way]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    async def _draw_one(self, name: str, request: dict) -> list:
        drawing = Drawing(name, versions=(self._commits, self._commits))
        _sample.set(drawing)  # only in the context of this task
        responses = await super().generate_responses(num_samples=1, **request)
        for response in responses:
            response["versions"] = drawing.versions
        return responses

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        """Differs from upstream: a request is lean, and has a seed under --train.full_determinism_enable.

        The engine's one generator gives its numbers in order of arrival, which differs between two runs, and it
        restarts with a resumed run. The seed of a request depends only on its sample.
        """
        sample = _sample.get(None)  # None: the request is not for a sample, as in first_sync.py
        if self.sampling_seed is not None and sample is not None:
            sampling_params = copy.copy(sampling_params)
            sampling_params.seed = zlib.crc32(f"{self.sampling_seed} {sample.name} {sample.turns}".encode())
            sample.turns += 1  # an agent may make more than one request
        params = lean(sampling_params) if self._is_lean else sampling_params
        output = await super().generate(prompt_token_ids, params, multi_modal_data)
        if sample is not None:
            sample.versions = (sample.versions[0], self._commits)
        return readable(output) if self._is_lean else output
