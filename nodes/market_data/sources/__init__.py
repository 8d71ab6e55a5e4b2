"""Where raw frames come from: a live venue, a capture, a seeded generator.

Never here: parsing.
"""
