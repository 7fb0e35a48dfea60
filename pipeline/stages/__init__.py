"""The stages of a build, a module each."""

#: The stages' names in order. A shell that completes them has no time to import the stages themselves, which
#: `pipeline.engine.stage` lists; a test compares the two.
STAGE_NAMES = ("acquire", "install", "provision", "generalize", "convert", "inspect", "prove", "capture")
