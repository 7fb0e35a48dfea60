"""A Resource Manager on the loopback address, by which Azure's own command line and libraries use this host's VMs."""
