"""The WebSocket gateway: browsers and programs on one side, the mesh on the other.

Never here: imports, so that pure code loads no library.
"""
