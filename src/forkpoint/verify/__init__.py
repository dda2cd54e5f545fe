"""Verifiers: what an answer is worth. Nothing heavy is imported here, so that worker processes start fast."""
