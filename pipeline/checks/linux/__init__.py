"""What is checked on a Linux disk."""
