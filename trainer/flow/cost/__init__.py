"""Running costs of states, which a control keeps low."""
