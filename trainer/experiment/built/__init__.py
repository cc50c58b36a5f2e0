"""What trained policies build: objects for a person, and objects whose objectives are asked."""
