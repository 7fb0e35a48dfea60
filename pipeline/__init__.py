"""goldsmith: from one YAML definition to one proven golden master.

The floors of the house; imports point down this list, never up:

    cli          the verbs: parse, call, print
    refresh      the night; beside it patching (golden updated) and truth (no layer believed)
    build        STAGES in order, and the runner: keys, resume, plan
    preconditions   what a definition needs of the store, this host and the archive
    stages       one file a stage: acquire ... capture
    job          one build in progress: what the stages share
    evidence     what a master carries: bill of materials, statements, template
    checks       what must be true of a master
    guests       what differs by operating system, and only that
    offline      reading a disk that is not running
    hypervisor   the only door to libvirt
    gallery      versions, manifests, channels: the directory tree is the truth
    fetch        downloads that resume
    layers       content-keyed qcow2 layers: commit by rename, lock, sweep
    vhd          the format
    definition   YAML to a frozen typed model, every fault at once
    locks        who holds a lock, and waiting for it in words
    record       what happened: runs, stage records, timings
    base         qemu-img and qemu-io, behind the package sh
    store        where things land
    scratch      the only maker of temporary files and folders, which `clean` finds again
    command      the only door to child processes
    files        records written whole, and read as if somebody had tampered with them
    file_errors  errors of the file system in words: which file, whose it is, what to do
    printable    foreign text made harmless for terminals and logs
    errors       one error with a hint and evidence, and a handful of kinds
    hints        what to do, by an error's name
"""

__version__ = "0.1.0"
