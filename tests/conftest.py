"""Fixtures of the rooms' tests, each from a module beside the tests that use it."""

pytest_plugins = ("cli_fixtures", "engine_fixtures", "spec_fixtures")
