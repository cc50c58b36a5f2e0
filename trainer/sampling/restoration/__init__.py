"""Pictures from observations of them: what is asked, how a run is asked, and what is kept of the answers."""
