"""Rules on settings that exclude each other, one file a subject; a rule yields field, problem and remedy."""
