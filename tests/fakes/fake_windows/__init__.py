"""NOT WINDOWS: a guest that plays Windows' part, so that goldsmith's can be tried without Windows media.

It is a Linux kernel with a small initramfs, and the real guest agent. It is started from a UDF medium laid out
as an installation ISO is, takes its orders from the answer file, writes an NTFS with real registry hives and an
install.wim applied, runs the first logon's commands, steps and sysprep as Microsoft's documents describe them, and
fails on demand in each way that is known. What it does not know of Windows, nobody has tried.

parts    what comes from Debian's packages: kernel, shim, GRUB, the agent
media    the installation medium, and the drivers'
guest    what runs inside: play.py (Setup, first logon, sysprep), identity.py (what a machine has of its own),
         shell.py (cmd's own language, as far as needed)
"""
