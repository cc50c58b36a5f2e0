"""What engines hold besides what a network computes. The protocol is in ``protocol``."""
