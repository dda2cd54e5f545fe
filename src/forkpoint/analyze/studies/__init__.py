"""Studies: analyses that run a model, each a function returning data and one returning the panels of a page."""
