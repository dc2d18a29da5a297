"""Policy weights to engines, a bucket at a time: sender.py on the policy's side, receiver.py in each engine's worker."""
