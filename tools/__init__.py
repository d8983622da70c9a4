"""Programs for those who work on batchrunner; none of them is installed with it."""
