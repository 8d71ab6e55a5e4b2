"""Measurements: each prints what it saw, as a table or as JSON. They measure, never assert.

Never here: thresholds, tests.
"""
