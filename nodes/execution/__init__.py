"""Execution: approved intents to the venue, the venue's evidence to orders, fills, money.

Never here: opinions on risk, venue spelling.
"""
