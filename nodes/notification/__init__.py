"""What a person should hear of, and the ways to tell them.

Never here: code, trading.
"""
