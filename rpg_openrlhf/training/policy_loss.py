"""RPG's loss with OpenRLHF's interface, and statistics of a rollout. Shapes: B sequences, A action tokens."""

from types import SimpleNamespace

import torch
from openrlhf.models import PolicyLoss
from openrlhf.models.utils import masked_mean

from rpg_openrlhf.objectives.losses import rpg_token_losses

# Means over the action tokens of a rollout. The importance weight also has extremes and an effective sample size.
MEANS = (
    "importance_weight",
    "gated_low",
    "gated_high",
    "gated_dual",
    "kl_old_k1",
    "kl_old_k3",
    "kl_ref_k1",
    "kl_ref_k3",
    "regularized_advantage",
)


class RPGPolicyLoss(PolicyLoss):
    """Differs from openrlhf.models.PolicyLoss only in the per-token loss; call, aggregation, results are upstream's.

    Upstream's forward is called with equal old and new log-probs, so that its importance weight is 1, and with our
    token losses as negative advantages, so that its loss is ours and gradients flow through it. It then applies only
    its mismatch correction (`--algo.advantage.is_correction_*`) and `aggregate_loss`, so gradient accumulation,
    dynamic batches and data parallelism keep their global means.
    """

    def __init__(self, args: SimpleNamespace):
        correction = args.algo.advantage
        super().__init__(
            token_level_loss=args.actor.loss_agg_mode == "token-mean",
            is_correction_level=correction.is_correction_level,
            is_correction_mode=correction.is_correction_mode,
            is_correction_gating=correction.is_correction_gating,
            is_correction_threshold=correction.is_correction_threshold,
        )
        low, high = args.actor.eps_clip_low_high
        names = ("divergence", "gradient_estimator", "beta", "importance_level", "reward_weight", "clip_mode")
        self.objective = {name: getattr(args.rpg, name) for name in names}
        self.objective |= {"clip_eps_low": low, "clip_eps_high": high, "dual_clip": args.actor.dual_clip}
        self.on_policy = args.rpg.on_policy  # π_old is the current policy, so it had no forward pass
        self.ref_log_probs: torch.Tensor | None = None  # (B, A), bound by the trainer; None: π_ref = π_old
        self.statistics = StepStatistics()

    def forward(
        self,
        log_probs: torch.Tensor,
        old_log_probs: torch.Tensor,
        advantages: torch.Tensor,
        action_mask: torch.Tensor,
        rollout_log_probs: torch.Tensor | None = None,
        **loss_batch_info,
    ):
        """Differs from upstream: the losses are RPG's, and the clip fraction is that of gated tokens.

        Return loss, gated fraction, k1 estimates of KL(π_old‖π_θ) and of KL(engines' policy‖π_old), filtered fraction.
        The last two may be None.
        """
        if self.on_policy:
            old_log_probs = log_probs.detach()
        tokens = rpg_token_losses(
            log_probs, old_log_probs, advantages, self.ref_log_probs, action_mask, **self.objective
        )
        self.statistics.add(tokens.stats, action_mask)
        # Upstream multiplies by the mask, and NaN · 0 in the padding would stay NaN.
        mask = action_mask.bool()
        old_log_probs = torch.where(mask, old_log_probs, 0.0)
        rollout_log_probs = None if rollout_log_probs is None else torch.where(mask, rollout_log_probs, 0.0)
        loss, _, _, vllm_kl, is_filter_ratio = super().forward(
            old_log_probs, old_log_probs, -tokens.losses, action_mask, rollout_log_probs, **loss_batch_info
        )
        gated = tokens.stats["gated_low"] + tokens.stats["gated_high"] + tokens.stats["gated_dual"]
        policy_kl = masked_mean(torch.where(mask, old_log_probs - log_probs.detach(), 0.0), action_mask)
        return loss, masked_mean(gated, action_mask), policy_kl, vllm_kl, is_filter_ratio


class StepStatistics:
    """Sums and extremes of per-token statistics over all micro-batches of a rollout, reduced over ranks once.

    Upstream averages what a micro-batch reports, which is wrong for a maximum and costs a collective per number.
    """

    def __init__(self):
        self.sums: torch.Tensor | None = None  # (len(MEANS) + 2,): one per mean, Σw², token count
        self.extremes: torch.Tensor | None = None  # (2,): max w, -min w

    @torch.no_grad()
    def add(self, stats: dict[str, torch.Tensor], action_mask: torch.Tensor) -> None:
        """Add the `stats` of one micro-batch, (B, A) each, zero where masked."""
        mask = action_mask.bool()
        weight = stats["importance_weight"]
        zero = weight.new_zeros(())
        sums = [stats[name].sum() if name in stats else zero for name in MEANS]
        sums = torch.stack([*sums, weight.square().sum(), mask.sum().to(weight.dtype)]).double()
        largest = torch.where(mask, weight, -torch.inf).amax()
        smallest = torch.where(mask, weight, torch.inf).amin()
        extremes = torch.stack([largest, -smallest]).double()
        self.sums = sums if self.sums is None else self.sums + sums
        self.extremes = extremes if self.extremes is None else torch.maximum(self.extremes, extremes)

    def reduce(self, strategy) -> dict[str, float]:
        """Return the rollout's statistics over all ranks, and reset them. A collective: every rank calls it."""
        sums = strategy.all_reduce(self.sums, op="sum").tolist()
        largest, smallest = strategy.all_reduce(self.extremes, op="max").tolist()
        self.sums = self.extremes = None
        *means, square_sum, count = sums
        count, square_sum = max(count, 1.0), max(square_sum, 1e-30)  # no 0 / 0 for a rollout without action tokens
        result = {f"policy/{name}": value / count for name, value in zip(MEANS, means, strict=True)}
        result["policy/importance_weight_mean"] = result.pop("policy/importance_weight")
        result["policy/importance_weight_max"] = largest
        result["policy/importance_weight_min"] = -smallest
        # Kish's (Σw)²/(n Σw²): 1 when all weights are equal, 1/n when one token carries the batch.
        result["policy/effective_sample_size"] = means[0] ** 2 / (count * square_sum)
        return result
