"""What parts of a run exclude each other, refused before any process group exists: one file for each subject."""
