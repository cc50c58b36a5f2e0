"""What spans runs: checks, stages, comparisons of methods, and reports."""
