"""SUSE Linux Enterprise and openSUSE: zypper, wicked or NetworkManager, snapshots."""
