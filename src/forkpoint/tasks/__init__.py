"""Tasks: where problems come from, and how they become what a model reads."""
