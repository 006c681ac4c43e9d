"""Which side of an experiment a conversation meets."""

import hashlib


def position(experiment_id: int | str, conversation_id: int | str) -> float:
    """A fixed place in [0, 1) for this conversation in this experiment.

    The experiment is part of the hash: otherwise the same unlucky conversations would meet every
    challenger. Assignment goes by conversation, never by user: with ten people, one person would
    be the whole challenger side.
    """
    digest = hashlib.sha256(f"{experiment_id}:{conversation_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def sees_challenger(experiment_id: int | str, conversation_id: int | str, share: float) -> bool:
    return position(experiment_id, conversation_id) < share
