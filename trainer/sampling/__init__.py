"""Drawing examples, texts and pairs from a trained network."""
