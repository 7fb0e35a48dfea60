"""Red Hat Enterprise Linux and what is like it: Fedora, CentOS Stream, Rocky, Alma, Oracle; dnf, dracut, SELinux."""
