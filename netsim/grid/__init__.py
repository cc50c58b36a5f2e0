"""Many scenarios at once: which they are, who simulates them, and where they are kept."""
