"""One module per venue: raw bytes to values.

Never here: network, repair of what a venue sent.
"""
