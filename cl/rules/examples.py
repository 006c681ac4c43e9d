"""What can be learned from one interaction, and the keys it is known by."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

from cl.records import NOBODY, Message, Status
from cl.rules.text import content_key

MAX_TURNS = 8  # of the conversation before a prompt; older ones are left out


class Placed(Protocol):
    """A turn with its place in a conversation: after those before it, or in the stead of one."""

    @property
    def id(self) -> int: ...
    @property
    def status(self) -> str: ...
    @property
    def regenerates(self) -> int | None: ...


class Spoken(Protocol):
    """What was asked and answered."""

    @property
    def prompt(self) -> str: ...
    @property
    def answer(self) -> str: ...


P = TypeVar("P", bound=Placed)


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    id: int
    prompt: str
    answer: str
    status: str = Status.COMPLETE
    regenerates: int | None = None  # the turn in whose stead this one was asked


def standing(turns: Iterable[P]) -> list[P]:
    """A conversation as it stands, of all its turns in order.

    One that was asked in the stead of another, anew or in other words, takes the place of that one
    and of all that had followed it.
    """
    stands: list[P] = []
    for turn in turns:
        if turn.regenerates is not None:
            stands = [earlier for earlier in stands if earlier.id < turn.regenerates]
        stands.append(turn)
    return stands


def turns_before(turns: Iterable[P], id_: int, regenerates: int | None) -> list[P]:
    """The complete turns that one turn has before it, of all turns of its conversation in order."""
    end = id_ if regenerates is None else regenerates
    stood = standing(turn for turn in turns if turn.id < id_)
    return [turn for turn in stood if turn.id < end and turn.status == Status.COMPLETE]


def as_messages(turns: Iterable[Spoken]) -> list[Message]:
    """Turns as a model is shown them."""
    messages: list[Message] = []
    for turn in turns:
        messages.append(Message(role="user", content=turn.prompt))
        messages.append(Message(role="assistant", content=turn.answer))
    return messages


@dataclass(frozen=True)
class Example:
    """A rated interaction: a conversation, and the answer it should get, or should not get."""

    interaction_id: int
    conversation_id: int
    user: str
    prompt: str
    answer: str  # the correction where there is one
    version: str  # the one that answered
    thumb: int = 1
    rejected: str | None = None  # the answer that was corrected
    status: Status = Status.COMPLETE
    quality: float | None = None
    scorer: str | None = None
    finish_reason: str | None = "stop"
    learn: bool = True  # False: the person asked not to learn from this chat
    context: tuple[Message, ...] = ()  # the turns before the prompt

    @property
    def is_correction(self) -> bool:
        return self.rejected is not None

    @property
    def person(self) -> str:
        """Whose share it counts towards; in histories without names each conversation is somebody."""
        return self.user if self.user != NOBODY else f"{NOBODY} {self.conversation_id}"

    @property
    def source(self) -> str:
        return "correction" if self.is_correction else "thumb"

    @property
    def whole_prompt(self) -> str:
        return "\n".join((*(m["content"] for m in self.context), self.prompt))

    @cached_property
    def prompt_key(self) -> str:
        """The same for the same question after the same turns."""
        return content_key(*(m["content"] for m in self.context), self.prompt)

    @cached_property
    def key(self) -> str:
        """The same for the same turns, question and answer: what reviews are remembered by."""
        return content_key(*(m["content"] for m in self.context), self.prompt, self.answer)
