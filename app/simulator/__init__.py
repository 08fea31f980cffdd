"""A provider simulator: an HTTP server that speaks the three wire formats, limits and faults included.

It shares no code with the rest of the application, so that its counts can be held against ours.
"""
