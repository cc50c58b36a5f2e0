"""Methods side by side on one data set with one budget: their configurations, training, figures, and page."""
