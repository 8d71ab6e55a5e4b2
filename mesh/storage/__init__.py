"""What survives a kill: journals and checkpoints.

Never here: code.
"""
