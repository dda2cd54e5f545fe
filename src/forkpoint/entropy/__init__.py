"""Entropy and log-prob of tokens."""
