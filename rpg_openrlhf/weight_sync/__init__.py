"""Policy weights to engines, by bucket: sender.py on the policy's side, receiver.py in the engines' workers."""
