"""All that differs by operating system, a folder for each. `base.py` says what a system answers."""
