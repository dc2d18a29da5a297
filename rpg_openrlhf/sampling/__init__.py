"""Samples: generator.py asks the engines' actors (engine_actor.py) for rollouts; samples.py holds what returns."""
