"""Every key of the job file, and what it does."""

from tests.engine.job_key_effects.batches import BATCHES
from tests.engine.job_key_effects.bench import Effect
from tests.engine.job_key_effects.checks import CHECKS
from tests.engine.job_key_effects.fallbacks import FALLBACKS
from tests.engine.job_key_effects.limits import LIMITS
from tests.engine.job_key_effects.network import NETWORK
from tests.engine.job_key_effects.requests import ASKED
from tests.engine.job_key_effects.runs import RUNS
from tests.engine.job_key_effects.schedule import NIGHT

EFFECTS: dict[str, Effect] = {**ASKED, **BATCHES, **CHECKS, **FALLBACKS, **LIMITS, **NETWORK, **NIGHT, **RUNS}
