"""Studies: arms, each a layer of configs/ with flags, and the values of a setting at which they are trained."""

from dataclasses import dataclass

LAUNCHER = ("rpg_openrlhf.commands.train_rpg",)
OLD_POLICY = "examples.comparison.old_policy"
STALENESS_BETA = 0.02  # of every arm of that study


@dataclass(frozen=True)
class Arm:
    """A method as it is trained. `penalty` is the flag of its KL's coefficient, None where the method has no KL."""

    name: str
    layer: str
    penalty: str | None
    flags: tuple[str, ...] = ()
    module: tuple[str, ...] = LAUNCHER  # module to run, and its first arguments

    @property
    def slug(self) -> str:
        """The arm's name in folders."""
        return self.name.lower().replace(", ", "_").replace(" ", "_")

    def command(self, beta: float | None) -> list[str]:
        """Flags of the launcher, after those that all arms share."""
        if self.penalty is None or beta is None:
            return list(self.flags)
        fixed = ["--ref.refresh", "never"]  # J is measured against the start policy
        return [*self.flags, *fixed, f"--{self.penalty}", str(beta)]


@dataclass(frozen=True)
class Study:
    """Arms, a setting and its values. Each arm is paired with the first one at the same value and seed."""

    arms: tuple[Arm, ...]
    setting: str  # "beta", the coefficient of the KL; or "queue", the rollouts that engines may be ahead
    values: tuple[float, ...]
    seeds: int
    layer: str  # of configs/, on top of the quickstart's
    control: Arm | None = None  # the first arm under another name: their difference is chance

    @property
    def base(self) -> Arm:
        """The arm that all others are compared with."""
        return self.arms[0]

    def values_of(self, arm: Arm) -> tuple[float | None, ...]:
        """Values that the arm is trained at; None where the setting does not concern it."""
        return (None,) if self.setting == "beta" and arm.penalty is None else self.values

    def command(self, arm: Arm, value: float | None) -> list[str]:
        """Flags of the launcher for one arm at one value."""
        if self.setting == "beta":
            return arm.command(value)
        # Queue 0 means synchronous training, which needs no flag.
        ahead = ["--train.async_enable", "--train.async_queue_size", f"{value:g}"] if value else []
        return [*arm.command(STALENESS_BETA), *ahead]


URKL = Arm("RPG-REINFORCE-URKL", "algorithm/rpg_reinforce_urkl", "rpg.beta")
AGAIN = Arm("RPG-REINFORCE-URKL, again", URKL.layer, URKL.penalty)  # sampling differs from run to run
OBJECTIVE = Study(
    arms=(
        URKL,
        AGAIN,
        Arm("RPG-REINFORCE-RKL", "algorithm/rpg_reinforce_rkl", "rpg.beta"),
        Arm("RPG-REINFORCE-FKL", "algorithm/rpg_reinforce_fkl", "rpg.beta"),
        Arm("RPG-REINFORCE-UFKL", "algorithm/rpg_reinforce_ufkl", "rpg.beta"),
        Arm("RPG-URKL", "algorithm/rpg_urkl", "rpg.beta"),
        Arm("RPG-REINFORCE-URKL, prefix", URKL.layer, URKL.penalty, ("--rpg.importance_level", "prefix")),
        Arm("GRPO as released", "algorithm/grpo_as_released", "algo.kl.init_coef"),
        Arm("k3 loss", "algorithm/k3_loss", "algo.kl.init_coef"),
        Arm("REINFORCE++", "algorithm/reinforce++", "algo.kl.init_coef"),
        Arm("REINFORCE++ as released", "algorithm/reinforce++_as_released", "algo.kl.init_coef"),
        Arm("DAPO", "algorithm/dapo", None),
        Arm("CISPO", "algorithm/cispo", None),
    ),
    setting="beta",
    values=(0.2, 0.02),
    seeds=12,
    layer="debug/compare_cpu",
    control=AGAIN,
)

SAMPLED = ("--rpg.old_policy", "rollout")  # π_old is the policy that sampled, with the engines' log-probs
STALENESS = Study(
    arms=(
        Arm("RPG-REINFORCE-URKL", URKL.layer, URKL.penalty, SAMPLED),
        Arm("RPG, old log-probs recomputed", URKL.layer, URKL.penalty, SAMPLED, (OLD_POLICY, "recomputed")),
        Arm("RPG, no importance weight", URKL.layer, URKL.penalty, SAMPLED, (OLD_POLICY, "current")),
        Arm("GRPO as released", "algorithm/grpo_as_released", "algo.kl.init_coef"),
        Arm("REINFORCE++-baseline", "algorithm/reinforce++_baseline", "algo.kl.init_coef"),
    ),
    setting="queue",
    values=(0, 1, 2, 4, 8),
    seeds=6,
    layer="debug/staleness_cpu",
)
STUDIES = {"objective": OBJECTIVE, "staleness": STALENESS}
