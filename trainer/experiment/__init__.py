"""Work beyond a single run: checks, stages, comparisons of methods, and reports."""
