"""Accounts: who people are, and how they prove it.

Two roles, staff and admin. Nobody has a password until they chose one: a new account gets a
one-time link instead. Passwords are kept as scrypt hashes, sessions and links as hashes of their
tokens. Writes user and session.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from peewee import Database, IntegrityError

from cl.db import audit
from cl.db.tables import Session
from cl.db.tables import User as Row
from cl.records import Role, User

SESSION_HOURS, LINK_HOURS = 12, 72
MIN_PASSWORD = 8
_TRIES_FOR_NAME, _TRIES_FROM_PLACE, _PAUSE = 5, 20, timedelta(minutes=5)
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}
_NAME = re.compile(r"[\w][\w.@+-]{0,63}")
VISITOR = "visitor-"


class SignInError(ValueError):
    """The sign-in was refused; the text is for the person who tried."""


class Accounts:
    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._db = database
        self._now = clock
        self._tries: dict[str, list[datetime]] = {}
        self._lock = threading.Lock()

    # -- people ----------------------------------------------------------------------------

    def ensure_admin(self) -> str | None:
        """On the first start, make the account `admin`. Returns a sign-in token for it, once.

        The token is given again as long as nobody has used it: a lost link must not lock out.
        """
        if Row.select().where(Row.role == Role.ADMIN, Row.password.is_null(False)).exists():
            return None
        with self._db.atomic():
            user, is_new = Row.get_or_create(
                name="admin", defaults={"role": Role.ADMIN, "created_at": self._now()}
            )
            if is_new:
                audit.record(self._now(), "system", "add user", "admin", "first start")
        return self._link(user)

    def add(self, name: str, role: Role, actor: str) -> str:
        """Add a person. Returns the token of their one-time link. Raises ValueError."""
        if not _NAME.fullmatch(name) or name.startswith(VISITOR):
            raise ValueError(
                f"{name!r} cannot be a user name: letters, digits and . @ + - _ are, up to 64 of them."
            )
        try:
            with self._db.atomic():
                user = Row.create(name=name, role=role, created_at=self._now())
                audit.record(self._now(), actor, "add user", name, f"as {role}")
        except IntegrityError:
            raise ValueError(f"There is a user {name} already.") from None
        return self._link(user)

    def new_link(self, name: str, actor: str) -> str:
        """A one-time link for a person, who then chooses a new password. Ends their older links."""
        with self._db.atomic():
            user = self._require(name)
            audit.record(self._now(), actor, "new link", name)
            return self._link(user)

    def set_role(self, name: str, role: Role, actor: str, reason: str = "") -> None:
        """Raises ValueError when it would leave no admin, or is so already."""
        with self._db.atomic():
            user = self._require(name)
            if user.role == role:
                raise ValueError(f"{name} is {role} already.")
            self._change(user, role != Role.ADMIN, role=role)
            audit.record(self._now(), actor, "set role", name, reason, (user.role, role))

    def set_active(self, name: str, active: bool, actor: str, reason: str = "") -> None:
        """A person who is not active cannot sign in; running sessions end at once.

        Raises ValueError when it would leave no admin, or is so already.
        """
        words = ("not active", "active")
        with self._db.atomic():
            user = self._require(name)
            if user.active == active:
                raise ValueError(f"{name} is {words[active]} already.")
            self._change(user, not active, active=active)
            action, change = (
                "activate" if active else "deactivate",
                (words[not active], words[active]),
            )
            audit.record(self._now(), actor, action, name, reason, change)

    def remove(self, name: str) -> None:
        """The account and its sessions, if there is one. Raises ValueError for the last admin."""
        with self._db.atomic():
            self.refuse_last_admin(name)
            Row.delete().where(Row.name == name).execute()

    def refuse_last_admin(self, name: str) -> None:
        """Raises ValueError when without this person there would be no admin."""
        others = Row.select().where(Row.role == Role.ADMIN, Row.active, Row.name != name)
        is_admin = Row.select().where(Row.role == Role.ADMIN, Row.name == name).exists()
        if is_admin and not others.exists():
            raise ValueError(f"{name} is the last admin.")

    def find(self, name: str | None) -> User | None:
        """The account of this name as it is now; None for visitors and strangers."""
        row = Row.get_or_none(Row.name == name) if name else None
        return _user(row) if row else None

    def users(self) -> list[User]:
        return [_user(row) for row in Row.select().order_by(Row.name)]

    # -- signing in ------------------------------------------------------------------------

    def sign_in(self, name: str, password: str, place: str) -> str:
        """Returns a session token. Raises SignInError, the same for a wrong name and password.

        After five wrong tries for a name, or twenty from a place (an address, which many people
        may share), the next ones have to wait.
        """
        keys = {f"name {name}": _TRIES_FOR_NAME, f"place {place}": _TRIES_FROM_PLACE}
        self._count_try(keys)
        row = Row.get_or_none(Row.name == name)
        # Unknown names cost the same time as known ones.
        stored = row.password if row and row.password else _NOBODY
        if not _matches(password, stored) or row is None or not row.active:
            raise SignInError("Wrong user name or password.")
        with self._lock:
            self._tries.pop(f"name {name}", None)
            if of_place := self._tries.get(f"place {place}"):
                of_place.pop()
        return self._token(row, is_link=False, hours=SESSION_HOURS)

    def redeem(self, token: str, password: str) -> str:
        """Use a one-time link: set the password, end other sessions. Returns a session token."""
        if len(password) < MIN_PASSWORD:
            raise SignInError(f"The password must have at least {MIN_PASSWORD} characters.")
        with self._db.atomic():
            link = self._session(token, is_link=True)
            if link is None:
                raise SignInError(
                    "This link has been used or is too old. Ask an admin for a new one."
                )
            Session.delete().where(Session.user == link.user_id).execute()
            Row.update(password=_hash(password)).where(Row.id == link.user_id).execute()
            audit.record(self._now(), link.user.name, "set password", link.user.name)
            return self._token(link.user, is_link=False, hours=SESSION_HOURS)

    def is_link(self, token: str) -> bool:
        return self._session(token, is_link=True) is not None

    def session(self, token: str | None) -> User | None:
        """Whose session this is, read from the database each time: rights may have been taken away."""
        found = self._session(token, is_link=False) if token else None
        return _user(found.user) if found else None

    def sign_out(self, token: str) -> None:
        Session.delete().where(Session.token == _digest(token)).execute()

    # -- inside ----------------------------------------------------------------------------

    def _session(self, token: str, *, is_link: bool) -> Any:
        return (
            Session.select(Session, Row)
            .join(Row)
            .where(
                (Session.token == _digest(token))
                & (Session.is_link == is_link)
                & (Session.expires_at > self._now())
                & Row.active
            )
            .first()
        )

    def _link(self, user: Any) -> str:
        with self._db.atomic():
            Session.delete().where(Session.user == user.id, Session.is_link).execute()
            return self._token(user, is_link=True, hours=LINK_HOURS)

    def _token(self, user: Any, *, is_link: bool, hours: float) -> str:
        token = secrets.token_urlsafe(32)
        now = self._now()
        Session.delete().where(Session.expires_at < now).execute()
        Session.create(
            token=_digest(token),
            user=user.id,
            is_link=is_link,
            expires_at=now + timedelta(hours=hours),
        )
        return token

    def _change(self, user: Any, removes_admin: bool, **values: Any) -> None:
        if removes_admin:
            self.refuse_last_admin(user.name)
        Row.update(**values).where(Row.id == user.id).execute()
        if removes_admin:
            Session.delete().where(Session.user == user.id).execute()

    def _require(self, name: str) -> Any:
        user = Row.get_or_none(Row.name == name)
        if user is None:
            raise ValueError(f"There is no user {name}.")
        return user

    def _count_try(self, keys: Mapping[str, int]) -> None:
        """Counted before the password is looked at: tries that come together all count."""
        now = self._now()
        with self._lock:
            self._tries = {
                key: recent
                for key, tries in self._tries.items()
                if (recent := [at for at in tries if now - at < _PAUSE])
            }
            for key, most in keys.items():
                tries = self._tries.get(key, [])
                if len(tries) >= most:
                    minutes = (_PAUSE - (now - tries[-most])).total_seconds() / 60
                    raise SignInError(
                        f"Too many wrong tries. Please wait {max(1, round(minutes))} minutes."
                    )
            for key in keys:
                self._tries.setdefault(key, []).append(now)


def visitor_name(token: str) -> str:
    """The name under which a visitor without an account chats: fixed by the browser's own token."""
    return VISITOR + _digest(token)[:20]


def _user(row: Any) -> User:
    return User(row.id, row.name, Role(row.role), row.active)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _hash(password: str) -> str:
    salt = os.urandom(16)
    key = hashlib.scrypt(
        password.encode(), salt=salt, n=_SCRYPT["n"], r=_SCRYPT["r"], p=_SCRYPT["p"]
    )
    return f"{base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def _matches(password: str, stored: str) -> bool:
    salt, key = (base64.b64decode(part) for part in stored.split("$"))
    found = hashlib.scrypt(
        password.encode("utf-8", "replace"),
        salt=salt,
        n=_SCRYPT["n"],
        r=_SCRYPT["r"],
        p=_SCRYPT["p"],
    )
    return hmac.compare_digest(found, key)


_NOBODY = _hash(secrets.token_hex(16))
