"""Coordinator: who is here, who is alive, which mode. Control plane only.

Never here: business events, orders, being needed for anybody to start or stop.
"""
