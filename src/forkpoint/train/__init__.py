"""The embedded engine: recipes, the training loop, checkpoints and run directories."""
