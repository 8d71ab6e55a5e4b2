"""Market data: raw frames of a venue to typed, checked values that are published.

Never here: code.
"""
