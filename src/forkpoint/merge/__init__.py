"""Merging checkpoints: one equation on tensors, and files read and written a block at a time."""
