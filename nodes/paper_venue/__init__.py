"""The paper venue: an exchange of its own, matching our orders against the real market's data.

Never here: anything of execution; it knows us only by requests and reports.
"""
