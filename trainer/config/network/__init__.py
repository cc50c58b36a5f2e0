"""Settings of each network, and what they tell of it before it is built. Free of torch."""
