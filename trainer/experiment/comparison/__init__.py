"""Methods side by side: what each becomes on one data set with one budget, their training, their figures, the page."""
