"""A reward that an untrained model meets now and then: the share of digits in the reply."""

COLUMNS = ("no_answer", "answer_ambiguous", "grade_timeout")  # as this package's grader has


def reward_func(queries, prompts, labels):
    """Upstream's entry point, called with one sample."""
    reply = queries[0][len(prompts[0]) :]
    share = sum(character.isdigit() for character in reply) / max(1, len(reply))
    return {"rewards": share, "scores": float(share > 0.5), "extra_logs": dict.fromkeys(COLUMNS, 0.0)}
