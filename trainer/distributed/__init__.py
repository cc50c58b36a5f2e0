"""Process groups, training engines, and the processes of the ranks."""
