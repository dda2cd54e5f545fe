"""What runs inside the sandbox's own processes: the standard library and nothing else.

These modules are imported by a fresh interpreter that does not know forkpoint; they import each other relatively.
"""
