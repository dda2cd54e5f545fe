"""Puts this folder on the import path, so that every test can import the helpers that lie in it."""
