"""Closed bars and technical indicators from public trades.

Never here: code, money decisions.
"""
