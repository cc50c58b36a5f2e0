"""What moves the weights. The protocol is in ``protocol``; an engine's file is imported only when it is used."""
