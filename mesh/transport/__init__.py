"""The only home of zmq: sockets and what moves on them.

Never here: code.
"""
