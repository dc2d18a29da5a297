"""Commands: rpg-train (train_rpg.py), rpg-prepare-data, rpg-check, and the plans of the published tables."""
