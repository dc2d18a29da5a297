"""Train with an old policy that is not the one that sampled: two arms of the study of staleness.

    python -m examples.comparison.old_policy {recomputed,current} --flag value ...   (flags of the launcher)

`recomputed` takes the old log-probs from the policy when training on a rollout begins, like OpenRLHF. `current` takes
them from the policy at each step, so that every importance weight is 1. Neither gives the objective's gradient: the
launcher refuses the first with `--train.async_enable`, and has no flag for the second.
"""

import sys
from types import SimpleNamespace

from rpg_openrlhf.commands import train_rpg
from rpg_openrlhf.launch import supervise

KINDS = ("recomputed", "current")


def replace_old_policy(args: SimpleNamespace, kind: str) -> SimpleNamespace:
    """Set the source of the old log-probs, after the launcher's checks."""
    if kind == "recomputed":
        args.rpg.old_policy = "recompute"
    else:
        args.rpg.on_policy = True
    return args


def main(argv: list[str] | None = None) -> int:
    """Train; return the launcher's exit status."""
    kind, *flags = sys.argv[1:] if argv is None else argv or [""]
    if kind not in KINDS:
        print(f"old_policy: {kind}: not one of {', '.join(KINDS)}", file=sys.stderr)
        return 2
    return train_rpg.main(flags, lambda args: supervise.launch(replace_old_policy(args, kind)))


if __name__ == "__main__":
    sys.exit(main())
