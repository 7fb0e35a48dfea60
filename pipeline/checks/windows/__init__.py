"""What is checked on a Windows disk."""
