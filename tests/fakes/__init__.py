"""Guests that are no Debian, for questions that need none. There are two, and no test makes a third.

power         a boot sector: it runs, powers off, restarts, or is deaf to its button. Up in a second, with 0.1 s of
              processor time. For what libvirt and `Machine` say of power.
small_linux   Debian's kernel with an initramfs: Debian's qemu-ga answers, the fabric is asked and told Ready, HTTP is
              served, the button and the agent power it off. For questions of agents, fabrics and networks.

Neither has a disk with a system on it: what steps, generalize and checks do needs the real Debian of `golden_build`.
"""
