"""``deep``: the length ranker on the hidden states of a small language model. Optional, and off by default."""
