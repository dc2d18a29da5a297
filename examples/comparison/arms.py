"""The arms of the comparison: a layer of configs/ each, and the flag that holds the coefficient of its KL."""

from dataclasses import dataclass

BETAS = (0.2, 0.02)
SEEDS = 12


@dataclass(frozen=True)
class Arm:
    """A method as it is trained. `penalty` is None where the method has no KL: then it has one run for every β."""

    name: str
    layer: str
    penalty: str | None
    flags: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The arm's name in folders."""
        return self.name.lower().replace(", ", "_").replace(" ", "_")

    def command(self, beta: float | None) -> list[str]:
        """Flags of the launcher, after those that all arms share."""
        if self.penalty is None:
            return list(self.flags)
        fixed = ["--ref.refresh", "never"]  # J is measured against the start policy
        return [*self.flags, *fixed, f"--{self.penalty}", str(beta)]


BASE = Arm("RPG-REINFORCE-URKL", "algorithm/rpg_reinforce_urkl", "rpg.beta")
AGAIN = Arm("RPG-REINFORCE-URKL, again", BASE.layer, BASE.penalty)  # the A/A arm: sampling differs from run to run
ARMS = (
    BASE,
    AGAIN,
    Arm("RPG-REINFORCE-RKL", "algorithm/rpg_reinforce_rkl", "rpg.beta"),
    Arm("RPG-REINFORCE-FKL", "algorithm/rpg_reinforce_fkl", "rpg.beta"),
    Arm("RPG-REINFORCE-UFKL", "algorithm/rpg_reinforce_ufkl", "rpg.beta"),
    Arm("RPG-URKL", "algorithm/rpg_urkl", "rpg.beta"),
    Arm("RPG-REINFORCE-URKL, prefix", BASE.layer, BASE.penalty, ("--rpg.importance_level", "prefix")),
    Arm("GRPO as released", "algorithm/grpo_as_released", "algo.kl.init_coef"),
    Arm("k3 loss", "algorithm/k3_loss", "algo.kl.init_coef"),
    Arm("REINFORCE++", "algorithm/reinforce++", "algo.kl.init_coef"),
    Arm("REINFORCE++ as released", "algorithm/reinforce++_as_released", "algo.kl.init_coef"),
    Arm("DAPO", "algorithm/dapo", None),
    Arm("CISPO", "algorithm/cispo", None),
)
