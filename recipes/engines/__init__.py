"""The libraries that quantize, each behind one function that takes a `Task` and returns `Done`."""
