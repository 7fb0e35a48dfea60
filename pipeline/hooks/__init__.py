"""What goldsmith does when something has happened: it writes the gallery's site, and notifies of failures."""
