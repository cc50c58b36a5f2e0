"""Exit statuses of the command line."""

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
