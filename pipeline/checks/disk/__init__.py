"""What is checked on every disk: its file, its partitions, its secrets."""
