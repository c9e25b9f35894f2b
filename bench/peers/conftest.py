"""The peers' jobs import what only their own environments have: no doctest looks into them."""

collect_ignore = ["bytewax_job.py", "faust_job.py", "quix_job.py"]
