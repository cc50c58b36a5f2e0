"""What can be seen of a long sweep while it runs."""
