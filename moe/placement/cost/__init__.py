"""What a placement costs in each dispatch mode, and how long its exchanges take."""
