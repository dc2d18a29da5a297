"""What upstream's single-turn executor answers, made up."""

import torch

GROUP = 2  # samples a prompt


def answer(number: int, prompt: int, response: int, reward: float, log_probs: bool = True) -> dict:
    """What the single-turn executor returns."""
    ids = [(31 * number + 5 * i) % 97 for i in range(prompt + response)]
    return {
        "prompt": f"p{number // GROUP}", "label": "l", "images": None, "mm_train_inputs": None,
        "observation_tokens": ids, "action_ranges": [(prompt, prompt + response)],
        "rollout_log_probs": [0.0] * prompt + [-0.1 * (i + 1) for i in range(response)] if log_probs else None,
        "truncated": response > 4, "reward": reward, "scores": (reward + 1) / 2,
        "extra_logs": {"accuracy": torch.tensor([reward]), "tries": 3},
    }  # fmt: skip


def answers(seed: int = 0, count: int = 16, **options) -> list[dict]:
    random = torch.Generator().manual_seed(seed)
    rolled = torch.randint(1, 9, (count, 2), generator=random).tolist()
    rewards = torch.randn(count, generator=random).tolist()
    return [answer(i, *rolled[i], rewards[i], **options) for i in range(count)]
