"""The exact engine for open loops: what leaves the hosts does not depend on the fabric, and no link feeds itself."""
