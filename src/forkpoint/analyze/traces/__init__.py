"""One format for recorded tokens, and what becomes one: runs, dumps, responses, a model that is sampled."""
