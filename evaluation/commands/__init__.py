"""What the three commands do, once their libraries may load: see interruption.py."""
