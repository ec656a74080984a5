"""The run: its event log, its directory, the drive loop and the backends.

Nothing in here imports torch, ray or pyarrow at import time; pyarrow is loaded by the first function
that reads or writes a log.
"""
