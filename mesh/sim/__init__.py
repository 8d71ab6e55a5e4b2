"""Deterministic simulation: virtual time, networks and disks that fail, judges that remember.

Never here: real time, sockets, files, trading words.
"""
