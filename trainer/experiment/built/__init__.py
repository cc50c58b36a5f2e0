"""Objects that trained policies build: for a person, and for their objectives to be measured."""
