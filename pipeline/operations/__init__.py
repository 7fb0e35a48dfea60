"""What is done to an instance that also needs to know its operating system: one verb a module."""
