"""The vLLM actor: the engine arguments upstream gives no flag for, and a seed for whatever is sampled."""

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
    turns: int = 0  # how often the engine was asked
    versions: tuple[int, int] = (0, 0)  # of the weights, when it was first asked and when it last answered


_sample: ContextVar[Drawing] = ContextVar("sample")


class RPGRolloutActor(SyncedEngine):
    """Differs from upstream's RolloutRayActor, too, in `engine_overrides`, which replace what it hard-codes."""

    engine_overrides: dict = {}  # noqa: RUF012  (set once, by install.py, on a subclass)
    sampling_seed: int | None = None  # of each sample, under --train.full_determinism_enable; set like the overrides
    resumed_step: int = 0  # the step that the run resumes from
    reward_source: str = "the reward"  # how errors name it; set like the overrides

    async def __init__(self, *args, **kwargs):
        self._tokenizer, self._requests = None, itertools.count()
        self._under_way: dict[str | int, asyncio.Future] = {}  # by draw
        if self.resumed_step:  # with the seed of the start the engine would draw the start's numbers again
            kwargs["seed"] = zlib.crc32(f"{kwargs['seed']} {self.resumed_step}".encode())
        await super().__init__(*args, **{**kwargs, **self.engine_overrides})
        garbage.as_usual()
        self._is_lean = type(self.executor) is SingleTurnAgentExecutor  # an agent may read what that one does not
        self._rewards = self._check_rewards() if self._is_lean else None
        self._watch = asyncio.create_task(self._end_with_the_engine())

    def _check_rewards(self) -> CheckedRewards | None:
        """Put checks around the executor's two ways to a reward; upstream logs their errors and trains on."""
        if not self.executor.reward_endpoints:
            return None
        name = "_fetch_rewards_via_func" if self.executor.reward_func else "_fetch_rewards_via_http"
        rewards = CheckedRewards(getattr(self.executor, name), self.reward_source)
        setattr(self.executor, name, rewards)
        return rewards

    async def _end_with_the_engine(self) -> None:
        """An actor without its engine serves nobody, and a dead actor is noticed where a dead engine is not."""
        while not self.llm.errored:
            await asyncio.sleep(1)
        print(f"vLLM's engine died: {self.llm.dead_error}", flush=True)
        os._exit(1)

    async def hold_tokenizer(self, tokenizer) -> None:
        """Keep it for every request that follows; upstream sends it with each."""
        self._tokenizer = OncePerPrompt(tokenizer)

    async def generate_responses(self, *, sampling_params, num_samples=1, draw=None, hf_tokenizer=None, **request):
        """Differs from upstream: `draw` numbers the prompt, and each of its samples knows which one it is.

        Without it (upstream's asynchronous trainer, which sends the tokenizer too) it is the order of arrival; with
        it the answers are columns where they can be.

        Log-probs of the sampled tokens are asked for whenever the engine was built to give them: upstream's
        SamplesGenerator asks only for its mismatch correction, and `--rpg.old_policy rollout` needs them too.
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
            if asyncio.current_task().cancelling():  # the call itself, and not its work alone
                raise
            return None
        finally:
            del self._under_way[name]
        if self._rewards is not None:
            self._rewards.raise_fault()
        responses = [response for answer in answers for response in answer]
        return responses if draw is None or not self._is_lean else pack(responses, request["max_length"])

    async def abandon(self, draws: list[str]) -> None:
        """End the work on those of `draws` that are under way here, whose answers are None, and wait for that."""
        works = [self._under_way[draw] for draw in draws if draw in self._under_way]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    async def _draw_one(self, name: str, request: dict) -> list:
        drawing = Drawing(name, versions=(self._commits, self._commits))
        _sample.set(drawing)  # in the context of this task alone
        responses = await super().generate_responses(num_samples=1, **request)
        for response in responses:
            response["versions"] = drawing.versions
        return responses

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        """Differs from upstream: without what nobody reads; under --train.full_determinism_enable with a seed.

        One generator for all requests hands out its numbers in order of arrival, which differs between two runs, and
        restarts with a resumed one: a seed depends on what is sampled, not when.
        """
        sample = _sample.get(None)  # None: asked by nobody who samples, such as first_sync.py
        if self.sampling_seed is not None and sample is not None:
            sampling_params = copy.copy(sampling_params)
            sampling_params.seed = zlib.crc32(f"{self.sampling_seed} {sample.name} {sample.turns}".encode())
            sample.turns += 1  # an agent may ask more than once
        params = lean(sampling_params) if self._is_lean else sampling_params
        output = await super().generate(prompt_token_ids, params, multi_modal_data)
        if sample is not None:
            sample.versions = (sample.versions[0], self._commits)
        return readable(output) if self._is_lean else output
