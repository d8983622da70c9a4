"""The coordinator of a job on the wire: server, client, and the desk between them and its files."""
