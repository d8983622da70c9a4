"""Checks on answers, the statistics over them, and the comparison of groups."""
