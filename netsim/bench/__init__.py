"""How fast the engines are."""
