"""History in a database: every durable event once, with the offset it came from.

Never here: code, decisions about trading.
"""
