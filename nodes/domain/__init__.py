"""The only vocabulary that nodes share: values, not behaviour of nodes.

Never here: I/O, parameters of one node, imports beyond mesh.errors.
"""
