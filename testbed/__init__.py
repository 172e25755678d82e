"""A small laboratory on the loopback interface, shared by the tests, the benchmarks and the demo.

- `testbed.sshd.Sshd`: a private OpenSSH server
- `testbed.proxy.DelayProxy`: a slow line in front of it
- `testbed.counting`: counts the SFTP requests that reach the server
- `testbed.trees`: trees of runs, and growth of one run
- `testbed.live.LiveWriter`: a process that keeps changing a tree, with a history to check mirrors against
- `testbed.embedded.EmbeddedServer`: a read-only SFTP server in this process, for where no sshd is installed
"""
