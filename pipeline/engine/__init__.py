"""Plans and runs builds: the stages' units, their keys, their order, and what runs at once."""
