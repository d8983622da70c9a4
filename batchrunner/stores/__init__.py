"""All that touches the disk: ledger, results, artifacts, pictures, lock, run.json.

Everything goes through the small port of `files`, so that a simulated file system can stand behind it.
"""
