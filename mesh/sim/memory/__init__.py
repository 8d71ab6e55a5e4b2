"""What surrounds a process, in memory and in simulated time: loop, sockets, disk, directory.

The one part of mesh.sim that is not pure: it runs the runtime as it is, on asyncio.

Never here: code.
"""
