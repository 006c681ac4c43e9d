"""How sure one may be of a difference that is looked at again and again.

All three bounds hold at every look at once ("anytime-valid"): however often a test is checked,
the chance of ever being misled stays below alpha.
"""

import math
from functools import cache

from scipy.special import betaincc, betaln  # type: ignore[import-untyped]

_PSEUDO_SAMPLES = 100.0  # how closely a split is expected to follow the configured share


def multiplier(se: float, alpha: float, sigma: float) -> float:
    """How many standard errors a one-sided bound lies away from the estimate.

    The normal mixture of Howard et al., Annals of Statistics 49(2), 2021, in the asymptotic form of
    Waudby-Smith et al., Annals of Statistics 52(6), 2024. `sigma` is the size of difference at
    which the bound is tightest.
    """
    spread = sigma**2 / se**2
    inner = math.log(1 + math.sqrt(1 + spread) / (2 * alpha))
    return math.sqrt(2 * (1 + 1 / spread) * inner)


@cache
def log_e_rate(events: int, trials: int, at_most: float) -> float:
    """The natural log of an e-value against "this rate is `at_most` or less", in (0, 1).

    A mixture of Bernoulli likelihoods over rates drawn evenly from (at_most, 1): under the
    hypothesis it ever exceeds 1/alpha with a probability of at most alpha (Ville's inequality).
    """
    misses = trials - events
    above = float(betaincc(events + 1, misses + 1, at_most))
    if above <= 0.0:
        return -math.inf  # so far below that no probability above it is left to speak of
    mixture = float(betaln(events + 1, misses + 1)) + math.log(above) - math.log1p(-at_most)
    return mixture - events * math.log(at_most) - misses * math.log1p(-at_most)


def log_e_share(inside: int, outside: int, share: float) -> float:
    """The natural log of an e-value against "units were split by `share`" (0 to 1, exclusive).

    The mixture is a beta distribution around the share; a sequential test of the sample ratio as
    by Lindon and Malek, 2020.
    """
    a, b = _PSEUDO_SAMPLES * share, _PSEUDO_SAMPLES * (1 - share)
    mixture = float(betaln(a + inside, b + outside) - betaln(a, b))
    return mixture - inside * math.log(share) - outside * math.log1p(-share)
