"""From rows to verdicts and numbers: checks on answers, and the statistics that compare groups of them. Pure."""
