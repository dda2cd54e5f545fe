"""Choosing problems to train on, by what a model's answers to them say."""
