"""What a placement saves a recorded run: bytes, predicted time, simulated time, and at what load."""
