"""Measures runicorn against rsync, rclone and lftp on this machine: `python -m benchmarks --help`.

A plan (`plan`) is a list of acts, `acts` plays them, `results` keeps what they find, `page` writes the docs.
Every number comes from the run that tells it. After each timed sync the mirror is compared with the source,
so that a fast but wrong copy counts as failed.
"""
