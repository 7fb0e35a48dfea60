"""All that differs by operating system, a folder for each."""
