"""RPG: KL-regularized policy gradients for LLM reasoning, as an extension of OpenRLHF 0.11.2."""

__version__ = "0.1.0"
