"""REST, OpenAPI, metrics and the dashboard's files.

Never here: imports, so that pure code loads no library.
"""
