"""The compiled core: headers in C++, and what Python needs to hand arrays over to it."""
