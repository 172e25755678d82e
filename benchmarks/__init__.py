"""Measures runicorn against rsync and rclone on this machine: `python -m benchmarks --help`.

Every number comes from the run that prints it. After each timed sync the mirror is compared with the source,
so that a fast but wrong copy counts as failed.
"""
