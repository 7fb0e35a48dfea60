"""Programs that goldsmith puts into a master. They run in the guest, with its own Python and nothing else."""
