"""The paper's mathematics, in torch. Read divergences.py, then losses.py: `rpg_token_losses` is the loss of a run."""
