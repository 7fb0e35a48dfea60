"""What every Linux guest has in common."""
