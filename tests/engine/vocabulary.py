"""Every key of the job file, and what it does."""

from vocabulary_asked import ASKED
from vocabulary_bench import Effect
from vocabulary_limits import LIMITS
from vocabulary_network import NETWORK
from vocabulary_night import NIGHT

EFFECTS: dict[str, Effect] = {**ASKED, **LIMITS, **NETWORK, **NIGHT}
