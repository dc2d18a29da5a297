"""Training: trainer.py is the controller on the driver, actors.py runs on the ranks, policy_loss.py is their loss."""
