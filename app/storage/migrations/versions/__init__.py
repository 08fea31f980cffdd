"""One file a change, named after its number and what it brings: ``v0002_books.py``."""
