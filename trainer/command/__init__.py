"""What the command line understands: one file for each verb, listed in trainer/__main__.py."""
