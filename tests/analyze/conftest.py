"""The helpers in this folder are imported by name from the folders below."""
