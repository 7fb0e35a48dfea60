"""Virtual machines from masters: the machine and its launch, which proofs share; records, disks, power, states."""
