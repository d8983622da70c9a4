"""What happened, for people: where a run stands, why items failed, and the words for it."""
