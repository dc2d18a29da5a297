"""A reward that keeps half of the groups in dynamic sampling: right and wrong by chance, or always right."""

from zlib import crc32


def reward_func(queries, prompts, labels):
    """Upstream's entry point, called with one sample."""
    prompt, query = (crc32(text.encode()) for text in (prompts[0], queries[0]))
    score = float(prompt % 2 or query % 2)
    return {"rewards": score, "scores": score, "extra_logs": {}}
