"""Risk: every intent is judged here, by one thread, before it can become an order.

Never here: sending orders, strategy.
"""
