"""Evaluation: held-out accuracy, statistics with intervals, pass@k, grading of recorded answers."""
