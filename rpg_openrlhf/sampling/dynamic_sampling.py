"""Dynamic sampling that keeps engines busy: prompts are drawn ahead, and those not taken are returned."""

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator

import ray
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from tqdm import tqdm

from rpg_openrlhf.sampling.draw_ahead import DrawAhead
from rpg_openrlhf.sampling.reward_check import RewardError

NOTE_SECONDS = 60.0  # seconds between two notes about the progress of a rollout


class StarvedRollout(RuntimeError):
    """Dynamic sampling rejects nearly all groups. The message is one line for the user."""


class Prompts(Iterator):
    """Rows of a data loader; rows that were given back come first."""

    def __init__(self, rows: Iterable):
        self._rows, self._back = iter(rows), deque()

    def __next__(self) -> tuple:
        return self._back.popleft() if self._back else next(self._rows)

    def give_back(self, rows: list[tuple]) -> None:
        """Put rows back, in the order they were drawn."""
        self._back.extendleft(reversed(rows))


class DynamicSamplesGenerator(SamplesGenerator):
    """Differs from upstream in how many groups are sampled at once; the groups of a rollout are the same.

    Upstream replaces each rejected group by one new group, so the last ones are sampled one after the other while the
    engines are nearly idle.
    """

    reward_source = "the reward"  # its name in errors
    draws = 0  # prompts drawn since the start
    given_back = 0  # prompts drawn for the last rollout and not taken
    drawn_in_previous_episodes = 0  # prompts drawn for the current rollout in episodes that ended before it was full
    carried_prompts = 0  # prompts of the current rollout from the previous episode
    _seen = (0, 0)  # accepted and finished groups of the last rollout

    def _generate_vllm(self, dataloader_iter, num_prompts, dynamic_filtering, **generate_kwargs):
        """Differs from upstream only under dynamic sampling, where `dataloader_iter` must be a Prompts."""
        if not dynamic_filtering:
            return super()._generate_vllm(dataloader_iter, num_prompts, dynamic_filtering, **generate_kwargs)
        before, ahead = self.draws, DrawAhead(num_prompts, *self._seen)
        rows, groups, under_way = [], {}, {}
        reported = time.monotonic()
        with tqdm(total=num_prompts, desc="Generate samples") as bar:
            while not ahead.complete:
                new = list(itertools.islice(dataloader_iter, ahead.lacking))
                under_way |= zip(self._dispatch(new, **generate_kwargs), itertools.count(len(rows)))
                rows += new
                ahead.drawn += len(new)
                if not under_way:  # and no prompt is left
                    break
                for ref in ray.wait(list(under_way), num_returns=1, timeout=10.0)[0]:
                    draw = under_way.pop(ref)
                    groups[draw] = self._accepted(ray.get(ref), **generate_kwargs)
                    ahead.finish(draw, bool(groups[draw]))
                    bar.update(bool(groups[draw]))
                if time.monotonic() - reported > NOTE_SECONDS:
                    reported = time.monotonic()
                    self.strategy.progress.put({"kind": "note", "text": self._progress_of(ahead)})
                self._check_not_starved(ahead)
        self._abandon(under_way, before)
        dataloader_iter.give_back(rows[ahead.length :])
        self.given_back, self.draws = len(rows) - ahead.length, before + ahead.length
        self._seen = ahead.seen
        self.drawn_in_previous_episodes = 0 if ahead.complete else self.drawn_in_previous_episodes + ahead.length
        taken = [sample for draw in range(ahead.length) for sample in groups[draw]]
        return taken, ahead.length, not ahead.complete

    def _progress_of(self, ahead: DrawAhead) -> str:
        """Progress of the current rollout on one line."""
        drawn, passed = self.drawn_in_previous_episodes + ahead.seen[1], self.carried_prompts + ahead.seen[0]
        return (
            f"dynamic sampling: {drawn} prompts drawn, {passed} of {self.args.rollout.batch_size} groups passed, "
            f"{drawn - passed} rejected"
        )

    def _check_not_starved(self, ahead: DrawAhead) -> None:
        """Raise StarvedRollout if the rollout is not full after as many drawn prompts as the user allows."""
        algo, batch = self.args.algo, self.args.rollout.batch_size
        limit = algo.dynamic_filtering_max_draws * batch
        if limit and not ahead.complete and self.drawn_in_previous_episodes + ahead.seen[1] >= limit:
            low, high = algo.dynamic_filtering_range
            raise StarvedRollout(
                f"--algo.dynamic_filtering_range {low:g} {high:g}: {self._progress_of(ahead)}, after "
                f"{algo.dynamic_filtering_max_draws} times --rollout.batch_size; check labels, reward and prompts, or "
                "raise --algo.dynamic_filtering_max_draws"
            )

    def _dispatch(self, rows: list[tuple], **generate_kwargs) -> list:
        if not rows:
            return []
        prompts, labels, images = ([row[column][0] for row in rows] for column in (1, 2, 3))
        return self._dispatch_prompts_to_vllm(prompts, labels, images=images, **generate_kwargs)

    def _accepted(self, responses: Iterable, **generate_kwargs) -> list:
        """Samples of a group; none if their mean score is not within --algo.dynamic_filtering_range."""
        samples = [self._process_response_into_experience(response, **generate_kwargs) for response in responses]
        if any(sample.scores is None for sample in samples):
            return samples
        low, high = self.args.algo.dynamic_filtering_range
        scores = [float(sample.scores[0]) for sample in samples]
        if low >= 0 and high <= 1 and not 0 <= min(scores) <= max(scores) <= 1:
            # Upstream takes a reward for a missing score: of rewards ±1, half of all mixed groups would be rejected.
            raise RewardError(
                f"{self.reward_source}: a score is {min(scores, key=lambda score: score <= 1):g}, and "
                f'--algo.dynamic_filtering_range {low:g} {high:g} is for scores from 0 to 1; return such "scores" '
                "beside the rewards, or give the range of the rewards"
            )
        return samples if low < sum(scores) / len(scores) < high else []

    def _abandon(self, under_way: dict, before: int) -> None:
        """Cancel draws that no rollout takes, before the engines get other requests."""
        if under_way:
            names = [str(before + draw + 1) for draw in under_way.values()]
            ray.get([engine.abandon.remote(names) for engine in self.vllm_engines])
            ray.get(list(under_way))
