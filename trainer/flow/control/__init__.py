"""Controls: fields made of fields."""
