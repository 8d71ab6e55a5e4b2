"""What makes a process a node: settings, logs, component, runner.

Never here: code.
"""
