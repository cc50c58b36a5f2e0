"""What excludes what in a run, one file a subject; a rule yields field, problem and remedy under each condition."""
