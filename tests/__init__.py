"""The tests; a package, because one of their peers installs another of this name."""
