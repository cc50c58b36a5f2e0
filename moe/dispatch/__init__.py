"""How tokens reach their experts. A dispatcher is a Megatron-Core ``MoETokenDispatcher`` (six calls)."""

from moe.dispatch.all_to_all import HomeReturnDispatcher

DISPATCHERS = {"home": HomeReturnDispatcher}

__all__ = ["DISPATCHERS", "HomeReturnDispatcher"]
