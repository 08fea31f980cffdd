"""The tree of schema changes, one file a change, in ``versions``; ``app.storage.migrating`` runs them.

A change is written once and runs on both engines, up and down, with data in place. What stands in a released file is
never edited: change the schema with a new file, whose ``down_revision`` names the one before.
"""
