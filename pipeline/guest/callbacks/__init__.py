"""Plugins that ansible-playbook loads into its own process; they import nothing of goldsmith."""
