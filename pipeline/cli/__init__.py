"""The verbs, one file a noun. They parse, call and print; heavy imports wait until a verb runs."""
