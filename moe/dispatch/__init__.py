"""How tokens reach their experts. A dispatcher is a Megatron-Core ``MoETokenDispatcher`` (six calls)."""
