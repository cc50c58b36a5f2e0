"""How well a few labelled examples tell classes apart on some features, with and without adaptation to the queries."""
