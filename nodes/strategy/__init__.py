"""Strategies: rules that turn events into intents, and the host that runs one of them.

Never here: code, venues, limits.
"""
