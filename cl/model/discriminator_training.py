"""How a discriminator is trained: from the reader's numbers and thumbs to a head and a report.

What is learned is one linear model, the mean of several that use more or less of the numbers. How
much each of them counts is decided by cross-validation over whole conversations, so that a figure
in the report is about conversations it has not seen.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl.model.reader import MATCHES, SCALARS, WORDS
from cl.rules import answer_features, calibration
from cl.rules.calibration import Calibration, Estimate, Flags, Numbers, sigmoid

Tell = Callable[[str, int, int], None]
Ints = NDArray[np.int64]

MUST_EXCEED = 0.6  # the lower end of the AUC's interval, for a scorer that may select
FEW, MANY, LEAST, LEAST_OF_MANY = 20, 100, 5, 20
_FOLDS = 5
_STEADY = 400  # labels; with fewer, one division into folds depends too much on chance
_FARTHEST = 6.0  # standard deviations; nothing that is stranger than this counts for more
_OF_WORDS = 11.0  # brings hashed words, which are seldom there, to about one
_LEAST_SHARE = 0.02  # of a model in the mean
_STILL_UP = 0.25  # weight of the thumb itself where the difference to another answer is learned
_CONVERSATION_ONLY = (
    "log words of the question",
    "turns so far",
    "question is a question",
    "person complains",
)
_HANDFUL = (
    "rules quality",
    "log words",
    "log words to question",
    "question words that come back",
    "words that are from the question",
    "repeated triples",
    "ends like a sentence",
    "question marks",
    "refuses at once",
    "affirms at once",
)


def _columns(names: Sequence[str]) -> list[int]:
    return [answer_features.NAMES.index(name) for name in names]


_TEXT = [*_columns(_HANDFUL), *range(SCALARS - MATCHES, SCALARS)]
_QUALITY = answer_features.NAMES.index("rules quality")


@dataclass(frozen=True)
class Options:
    """`strength`: how much the labels count against the penalty on large weights (C). The others
    are scales beside the counted numbers, 0: not used."""

    strength: float
    handful: bool = False  # of the counted numbers a few alone
    states: float = 0.0  # the reader's states
    said: float = 0.0  # the words of the answer
    asked: float = 0.0  # the words of the conversation


_PLAIN: tuple[Options, ...] = (
    Options(0.01, handful=True),
    Options(0.1, handful=True),
    Options(0.01),
    Options(0.03, said=0.5, asked=0.5),
)
_RICH: tuple[Options, ...] = (
    Options(0.01),
    Options(0.03, states=0.2),
    Options(0.01, states=0.3),
    Options(0.03, states=0.4),
    Options(0.03, states=0.8),
    Options(0.01, states=0.3, said=0.5),
    Options(0.03, said=0.5, asked=0.5),
    Options(0.01, states=0.3, said=0.5, asked=0.5),
    Options(0.03, states=0.4, said=1.0, asked=1.0),
)


Shares = dict[Options, float]


@dataclass(frozen=True)
class Report:
    """How good the scorer is on conversations it has not seen; None: it cannot be said."""

    labels: int
    ups: int
    downs: int
    groups: int
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    brier: float | None = None
    brier_low: float | None = None
    brier_high: float | None = None
    calibration_error: float | None = None
    calibration_error_low: float | None = None
    calibration_error_high: float | None = None
    text: str = ""


@dataclass(frozen=True, eq=False)
class Head:
    """A linear model over standardised numbers."""

    mean: Numbers
    scale: Numbers  # 0: not used
    weights: Numbers

    def __call__(self, features: NDArray[Any]) -> Numbers:
        raw: Numbers = self.inputs(features) @ self.weights
        return raw

    def inputs(self, features: NDArray[Any]) -> Numbers:
        away: Numbers = (as_stored(features) - self.mean) * self.scale
        return np.clip(away, -_FARTHEST, _FARTHEST)


def as_stored(features: NDArray[Any]) -> NDArray[np.float32]:
    """Rounded to float16, so that a score is the same from the store and from the reader."""
    bounded = np.clip(np.nan_to_num(features), -6e4, 6e4)
    stored: NDArray[np.float32] = bounded.astype(np.float16).astype(np.float32)
    return stored


def stage_for(labels: Sequence[int], groups: Sequence[str] | None = None) -> str:
    """How much may be used with these labels: prior, text or full."""
    fewest = min(labels.count(+1), labels.count(-1)) if (labels := list(labels)) else 0
    one_group = groups is not None and len(set(groups)) < 2
    if len(labels) < FEW or fewest < LEAST or one_group:
        return "prior"
    return "full" if len(labels) >= MANY and fewest >= LEAST_OF_MANY else "text"


@dataclass(frozen=True, eq=False)
class Learned:
    """What a training leaves."""

    stage: str
    report: Report
    head: Head
    calibration: Calibration


def learn(
    features: NDArray[Any], labels: Sequence[int], groups: Sequence[str], seed: int, tell: Tell
) -> Learned:
    """From numbers (n, size), labels +1 or -1 and a group for each row."""
    up = checked(labels)
    if not len(features) == len(up) == len(groups):
        raise ValueError(
            f"There are {len(features)} answers, {len(up)} labels and {len(groups)} groups."
        )
    stage = stage_for(list(labels), groups)
    counts = Report(len(up), int(up.sum()), int((~up).sum()), len(set(groups)))
    if stage == "prior":
        return _prior(counts, features.shape[1] if features.ndim == 2 else SCALARS)
    data = _Data(np.asarray(features), up, list(map(str, groups)), stage)
    scores, chances, shares = _cross_validate(data, seed, tell)
    head = _fit_mean(data, np.arange(len(up)), shares)
    curve = calibration.calibrate(scores, up)
    report = _judge(counts, scores, chances, up, data.groups, stage, seed)
    return Learned(stage, report, head, curve)


def checked(labels: Sequence[int]) -> Flags:
    wrong = [x for x in labels if isinstance(x, bool | np.bool_) or x not in (1, -1)]
    if wrong:
        raise ValueError(f"A label is +1 (thumb up) or -1 (thumb down), not {wrong[0]!r}.")
    return np.asarray(labels, dtype=int) > 0


def _prior(counts: Report, width: int) -> Learned:
    """Beta(2, 2) before the first thumb; the rules' quality orders, and no more than that."""
    chance = (counts.ups + 2) / (counts.labels + 4)
    mean, scale = np.zeros(width), np.zeros(width)
    mean[_QUALITY], scale[_QUALITY] = 0.85, 1.0
    head = Head(mean, scale, scale.copy())
    offset = float(np.log(chance / (1 - chance)))
    text = (
        f"{counts.labels} thumbs from {counts.groups} conversations are too few to learn from; "
        "rules about the text order the answers and select nothing."
    )
    report = Report(**{**asdict(counts), "text": text})
    return Learned("prior", report, head, Calibration(1.0, offset, np.empty(0), np.empty(0)))


class _Data:
    """The rows that are learned from, and which of them answer the same question differently."""

    def __init__(self, features: NDArray[Any], up: Flags, groups: list[str], stage: str) -> None:
        self.up, self.groups, self.stage = up, groups, stage
        self.features = as_stored(features)
        self.contrasts = _contrasts(self.features, up, groups)
        self.options = _PLAIN if stage == "text" else _RICH
        if self.features.shape[1] <= SCALARS + WORDS:  # narrow numbers have no words
            self.options = tuple(o for o in self.options if not o.said)
        self.scales = {o: self._scale(o) for o in self.options}

    def _scale(self, options: Options) -> NDArray[np.float32]:
        """What each standardised column is multiplied by; 0: it is not used."""
        scale = np.full(self.features.shape[1], options.states, np.float32)
        scale[:SCALARS] = 0
        words = _words(len(scale))
        scale[words], scale[words][: answer_features.HASHED_ANSWER] = options.asked, options.said
        scale[_TEXT if options.handful else slice(SCALARS)] = 1
        return scale


def _contrasts(features: NDArray[np.float32], up: Flags, groups: Sequence[str]) -> Ints:
    """(pairs, 2): rows with a thumb up and a thumb down for answers to the same conversation."""
    seen: dict[tuple[str, bytes], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    key = features[:, _columns(_CONVERSATION_ONLY)]
    for row, group in enumerate(groups):
        seen[group, key[row].tobytes()][0 if up[row] else 1].append(row)
    found = [
        (ups[i % len(ups)], downs[i % len(downs)])
        for ups, downs in seen.values()
        if ups and downs
        for i in range(max(len(ups), len(downs)))
    ]
    return np.asarray(found, dtype=np.int64).reshape(-1, 2)


def _words(width: int) -> slice:
    """The columns of the hashed words; narrow numbers have none."""
    return slice(width - WORDS if width > SCALARS + WORDS else width, width)


def _fit_mean(data: _Data, rows: Ints, shares: Shares) -> Head:
    """The weighted mean of the models with these options; being linear, it is one model again."""
    heads = [_fit(data, rows, options) for options in shares]
    weights = np.average([head.weights for head in heads], axis=0, weights=list(shares.values()))
    return replace(heads[0], weights=weights)


def _fit(data: _Data, rows: Ints, options: Options) -> Head:
    """L2-penalised logistic regression on these rows and the contrasts between them."""
    x = data.features[rows]
    mean, spread = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    scale = np.where(spread > 1e-4, 1 / np.maximum(spread, 1e-4), 0.0)
    words = _words(len(scale))
    scale[words] = np.where(scale[words] > 0, _OF_WORDS, 0.0)  # rare words are not worth more
    prior = data.scales[options]
    used = np.flatnonzero(scale * prior)
    inputs = np.clip((x[:, used] - mean[used]) * scale[used], -_FARTHEST, _FARTHEST)
    inputs = (inputs * prior[used]).astype(np.float32)
    at = np.full(len(data.up), -1)
    at[rows] = np.arange(len(rows))
    pairs = at[data.contrasts]
    pairs = pairs[(pairs >= 0).all(1)]
    weight = np.ones(len(rows))
    weight[pairs.ravel()] = _STILL_UP
    found = _logistic(inputs, data.up[rows], weight, pairs, options.strength)
    weights = np.zeros(x.shape[1])
    weights[used] = found * prior[used]
    return Head(mean, scale, weights)


def _logistic(
    x: NDArray[np.float32], up: Flags, weight: Numbers, pairs: Ints, strength: float
) -> Numbers:
    """Weights that minimise |w|^2 / 2 + strength (sum of log losses of rows and of differences)."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    sign = np.where(up, 1.0, -1.0)
    difference = x[pairs[:, 0]] - x[pairs[:, 1]]
    base = float(np.log((up.sum() + 1) / ((~up).sum() + 1)))

    def loss(at: Numbers) -> tuple[float, Numbers]:
        w, offset = at[:-1].astype(np.float32), at[-1]
        margin = sign * ((x @ w).astype(np.float64) + offset)
        apart = (difference @ w).astype(np.float64)
        value = strength * (weight @ np.logaddexp(0, -margin) + np.logaddexp(0, -apart).sum())
        pull = -strength * weight * sign * sigmoid(-margin)
        slope = x.T @ pull.astype(np.float32)
        slope = slope - strength * (difference.T @ sigmoid(-apart).astype(np.float32))
        value += 0.5 * float(at[:-1] @ at[:-1]) + 5e-4 * (offset - base) ** 2
        return float(value), np.append(slope + at[:-1], pull.sum() + 1e-3 * (offset - base))

    start = np.append(np.zeros(x.shape[1]), base)
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 60, "ftol": 1e-7}
    )
    solved: Numbers = found.x[:-1]
    return solved


# -- cross-validation --------------------------------------------------------------------------


def _cross_validate(data: _Data, seed: int, tell: Tell) -> tuple[Numbers, Numbers, Shares]:
    """Scores and probabilities of every row from models that saw nothing of its group.

    For each fold left out, the options and the calibration are chosen on the other folds, by
    models that saw neither (nested cross-validation: Varma, Simon 2006). Models that leave out
    two folds serve both of them. Also returned: how much each of the options counts over all.
    """
    divisions = [_divide(data, seed + i) for i in range(1 if len(data.up) >= _STEADY else 3)]
    scores, chances = np.zeros(len(data.up)), np.zeros(len(data.up))
    merits: list[list[float]] = []
    for fold_of in divisions:
        inner = _leave_two_out(data, fold_of, tell)
        for fold in range(_FOLDS):
            others, out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            known = {options: inner[options][fold, others] for options in data.options}
            merits.append([_merit(data, others, known[options]) for options in data.options])
            shares = _shares(data.options, merits[-1], data.up[others])
            raw = _fit_mean(data, others, shares)(data.features[out])
            mean = sum((share * known[options] for options, share in shares.items()), np.zeros(1))
            curve = calibration.calibrate(mean, data.up[others])
            scores[out] += raw / len(divisions)
            chances[out] += curve(raw) / len(divisions)
    return scores, chances, _shares(data.options, np.mean(merits, axis=0).tolist(), data.up)


def _divide(data: _Data, seed: int) -> Ints:
    """The fold of each row: groups in random order, each to the fold with the fewest rows yet."""
    sizes = Counter(data.groups)
    names = sorted(sizes)
    np.random.default_rng(seed).shuffle(names)
    filled, place = [0] * _FOLDS, {}
    for name in sorted(names, key=lambda n: -sizes[n]):
        place[name] = min(range(_FOLDS), key=lambda f: filled[f])
        filled[place[name]] += sizes[name]
    return np.array([place[group] for group in data.groups])


def _leave_two_out(data: _Data, fold_of: Ints, tell: Tell) -> dict[Options, Numbers]:
    """For each choice of options, (folds, rows): the row's score when that fold is left out, too."""
    found = {options: np.zeros((_FOLDS, len(fold_of))) for options in data.options}
    pairs = list(combinations(range(_FOLDS), 2))
    for done, (a, b) in enumerate(pairs):
        rest = np.flatnonzero((fold_of != a) & (fold_of != b))
        in_a, in_b = np.flatnonzero(fold_of == a), np.flatnonzero(fold_of == b)
        for options in data.options:
            head = _fit(data, rest, options)
            found[options][a, in_b] = head(data.features[in_b])
            found[options][b, in_a] = head(data.features[in_a])
        tell("Comparing models", done + 1, len(pairs))
    return found


def _merit(data: _Data, rows: Ints, scores: Numbers) -> float:
    """AUC; where differences were learned, its mean with the share of pairs in the right order."""
    area = calibration.auc(scores, data.up[rows])
    at = np.full(len(data.up), -1)
    at[rows] = np.arange(len(rows))
    pairs = at[data.contrasts]
    pairs = pairs[(pairs >= 0).all(1)]
    if not len(pairs):
        return area
    ups, downs = scores[pairs].T
    return (area + float(np.mean((ups > downs) + 0.5 * (ups == downs)))) / 2


def _shares(options: Sequence[Options], merits: Sequence[float], up: Flags) -> Shares:
    """More for better ones, gradually: with few labels chance decides which of them is best."""
    # Half the standard error of an AUC that says nothing: those of like models differ by less.
    chance = 0.5 * float(np.sqrt((1 / up.sum() + 1 / (~up).sum()) / 12))
    behind = np.nan_to_num(np.asarray(merits) - np.nanmax([*merits, 0.0]))
    shares = np.exp(behind / chance)
    shares /= shares.sum()
    return {
        o: share for o, share in zip(options, shares.tolist(), strict=True) if share > _LEAST_SHARE
    }


def _judge(
    counts: Report,
    scores: Numbers,
    chances: Numbers,
    up: Flags,
    groups: Sequence[str],
    stage: str,
    seed: int,
) -> Report:
    """The report, all of it from rows that the judged models had not seen."""
    area = calibration.interval(calibration.auc, scores, up, groups, seed)
    brier = calibration.interval(calibration.brier, chances, up, groups, seed)
    error = calibration.interval(calibration.calibration_error, chances, up, groups, seed)
    found = {**asdict(counts)}
    for name, one in (("auc", area), ("brier", brier), ("calibration_error", error)):
        for part, value in (("", one.value), ("_low", one.low), ("_high", one.high)):
            found[name + part] = round(value, 4) if np.isfinite(value) else None
    found["text"] = _sentence(counts, area, error, stage)
    return Report(**found)


def _sentence(counts: Report, area: Estimate, error: Estimate, stage: str) -> str:
    told = (
        f"Of an answer with a thumb up and one with a thumb down it finds the better one in "
        f"{area.value:.0%} of cases (90 % interval {area.low:.0%} to {area.high:.0%}), and its "
        f"probabilities are {error.value:.0%} off on average, judged on {counts.labels} thumbs "
        f"from {counts.groups} conversations it had not seen."
    )
    if area.low > MUST_EXCEED:
        return told
    return f"{told} That is not reliable enough to select answers; it only orders what is reviewed."
