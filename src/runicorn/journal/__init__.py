"""The journal's format, docs/journal-format.md: bytes <-> values, pure.

`frames` and `codecs` make and check frames, `sections` what is in them, `head` the file that tells how far
they are valid. Writing is the generator's (`runicorn.manifest`), reading the client's
(`runicorn.remote_storage`).
Standard library only.
"""
