"""The KL's reference π_ref: when it moves (schedule.py), and how its weights are held (weights.py)."""
