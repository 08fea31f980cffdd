"""Where events go: one file a receiver. Each takes batches and says what became of every event; none tries again.

Beside `providers` and `storage`: like them it implements ports over sockets and files, and knows neither of them.
"""
