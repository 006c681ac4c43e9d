"""Who people are, and how they prove it."""

import inspect
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from cl.accounts import Accounts, SignInError, visitor_name
from cl.db.tables import Audit, Session, User
from cl.house import Books
from cl.records import Role
from tests.fakes import FakeClock

PASSWORD = "correct horse"


@pytest.fixture
def accounts(books: Books) -> Accounts:
    return books.accounts


def join(accounts: Accounts, name: str = "ana", role: Role = Role.STAFF) -> str:
    """A person with a password, signed in. Returns the session token."""
    return accounts.redeem(accounts.add(name, role, "admin"), PASSWORD)


def test_the_first_start_makes_one_admin_with_a_link_that_works_once(accounts: Accounts) -> None:
    link = accounts.ensure_admin()
    assert link is not None
    session = accounts.redeem(link, PASSWORD)
    user = accounts.session(session)
    assert user is not None
    assert (user.name, user.is_admin) == ("admin", True)
    with pytest.raises(SignInError, match="has been used"):
        accounts.redeem(link, "another one")
    assert accounts.ensure_admin() is None


def test_a_link_nobody_used_is_made_anew_and_the_old_one_ends(accounts: Accounts) -> None:
    first, second = accounts.ensure_admin(), accounts.ensure_admin()
    assert first
    assert second
    assert not accounts.is_link(first)
    assert accounts.is_link(second)
    assert [user.name for user in accounts.users()] == ["admin"]


def test_a_link_ends_after_three_days(accounts: Accounts, clock: FakeClock) -> None:
    link = accounts.add("ana", Role.STAFF, "admin")
    clock.skip(72.1)
    with pytest.raises(SignInError, match="too old"):
        accounts.redeem(link, PASSWORD)


def test_a_short_password_is_refused_and_the_link_stays_good(accounts: Accounts) -> None:
    link = accounts.add("ana", Role.STAFF, "admin")
    with pytest.raises(SignInError, match="at least 8"):
        accounts.redeem(link, "short")
    assert accounts.redeem(link, PASSWORD)


def test_signing_in_and_out(accounts: Accounts) -> None:
    join(accounts)
    token = accounts.sign_in("ana", PASSWORD, "here")
    user = accounts.session(token)
    assert user is not None
    assert user.name == "ana"
    accounts.sign_out(token)
    assert accounts.session(token) is None


@pytest.mark.parametrize(("name", "password"), [("ana", "wrong one"), ("nobody", PASSWORD)])
def test_a_wrong_name_and_a_wrong_password_look_the_same(
    accounts: Accounts, name: str, password: str
) -> None:
    join(accounts)
    with pytest.raises(SignInError, match=r"^Wrong user name or password\.$"):
        accounts.sign_in(name, password, "here")


def test_an_account_without_a_password_cannot_sign_in(accounts: Accounts) -> None:
    accounts.add("ana", Role.STAFF, "admin")
    with pytest.raises(SignInError):
        accounts.sign_in("ana", "", "here")


def test_five_wrong_tries_make_one_wait_but_not_for_ever(
    accounts: Accounts, clock: FakeClock
) -> None:
    join(accounts)
    for number in range(5):
        with pytest.raises(SignInError, match="Wrong"):
            accounts.sign_in("ana", "guess", f"place {number}")
    with pytest.raises(SignInError, match="wait 5 minutes"):
        accounts.sign_in("ana", PASSWORD, "another place")
    clock.now += timedelta(minutes=5)
    assert accounts.sign_in("ana", PASSWORD, "another place")


def test_one_place_cannot_try_many_names(accounts: Accounts) -> None:
    for number in range(20):
        with pytest.raises(SignInError, match="Wrong"):
            accounts.sign_in(f"name{number}", "guess", "there")
    with pytest.raises(SignInError, match="Too many"):
        accounts.sign_in("name20", "guess", "there")


def test_tries_that_come_together_all_count(accounts: Accounts, books: Books) -> None:
    join(accounts)
    refusals: list[str] = []

    def guess(number: int) -> None:
        try:
            accounts.sign_in("ana", "guess", f"place {number}")
        except SignInError as refused:
            refusals.append(str(refused))
        finally:
            books.database.close()

    threads = [threading.Thread(target=guess, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(text.startswith("Wrong") for text in refusals) == 5
    assert sum(text.startswith("Too many") for text in refusals) == 7


def test_a_right_password_is_no_wrong_try(accounts: Accounts) -> None:
    join(accounts)
    for _ in range(30):
        assert accounts.sign_in("ana", PASSWORD, "here")


def test_a_new_link_is_in_the_audit_trail(accounts: Accounts) -> None:
    join(accounts)
    accounts.new_link("ana", "root")
    last = Audit.select().order_by(Audit.id.desc()).first()
    assert (last.actor, last.action, last.subject) == ("root", "new link", "ana")


def test_a_session_ends_after_its_time(accounts: Accounts, clock: FakeClock) -> None:
    token = join(accounts)
    clock.skip(11.9)
    assert accounts.session(token)
    clock.skip(0.2)
    assert accounts.session(token) is None


def test_deactivating_ends_sessions_at_once_and_stops_signing_in(accounts: Accounts) -> None:
    join(accounts, "root", Role.ADMIN)
    token = join(accounts)
    accounts.set_active("ana", False, "root")
    assert accounts.session(token) is None
    with pytest.raises(SignInError):
        accounts.sign_in("ana", PASSWORD, "here")
    accounts.set_active("ana", True, "root")
    assert accounts.sign_in("ana", PASSWORD, "here")


def test_the_last_admin_stays(accounts: Accounts) -> None:
    join(accounts, "root", Role.ADMIN)
    for change in (
        lambda: accounts.set_active("root", False, "root"),
        lambda: accounts.set_role("root", Role.STAFF, "root"),
    ):
        with pytest.raises(ValueError, match="last admin"):
            change()
    join(accounts, "second", Role.ADMIN)
    accounts.set_role("root", Role.STAFF, "second")
    assert [u.name for u in accounts.users() if u.is_admin] == ["second"]


@pytest.mark.parametrize("name", ["", "a b", "<b>", "visitor-1", "x" * 65, "-ana", "a\nb"])
def test_impossible_names_are_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a user name"):
        accounts.add(name, Role.STAFF, "admin")


def test_a_name_is_given_once(accounts: Accounts) -> None:
    accounts.add("ana", Role.STAFF, "admin")
    with pytest.raises(ValueError, match="a user ana already"):
        accounts.add("ana", Role.ADMIN, "admin")


def test_guessing_a_stolen_hash_is_expensive() -> None:
    """scrypt at 16 MiB a guess; the tests themselves turn it down."""
    source = Path(inspect.getfile(Accounts)).read_text(encoding="utf-8")
    assert '_SCRYPT = {"n": 2**14, "r": 8, "p": 1}' in source


def test_neither_passwords_nor_tokens_are_stored(accounts: Accounts) -> None:
    token = join(accounts)
    stored = f"{User.get(User.name == 'ana').password} {[s.token for s in Session.select()]}"
    assert PASSWORD not in stored
    assert token not in stored


def test_changes_are_in_the_audit_trail(accounts: Accounts) -> None:
    join(accounts, "root", Role.ADMIN)
    join(accounts, "ana")
    accounts.set_role("ana", Role.ADMIN, "operator", "her new job")
    accounts.set_active("ana", False, "root")
    lines = Audit.select().where(Audit.action.in_(("set role", "deactivate"))).order_by(Audit.id)
    assert [(a.actor, a.action, a.subject, a.before, a.after, a.reason) for a in lines] == [
        ("operator", "set role", "ana", "staff", "admin", "her new job"),
        ("root", "deactivate", "ana", "active", "not active", ""),
    ]


def test_what_is_so_already_is_refused(accounts: Accounts) -> None:
    join(accounts, "root", Role.ADMIN)
    count = Audit.select().count()
    with pytest.raises(ValueError, match="root is admin already"):
        accounts.set_role("root", Role.ADMIN, "root")
    with pytest.raises(ValueError, match="root is active already"):
        accounts.set_active("root", True, "root")
    assert Audit.select().count() == count


def test_a_visitors_name_follows_from_the_browsers_token_and_does_not_tell_it() -> None:
    assert visitor_name("token-1") == visitor_name("token-1")
    assert visitor_name("token-1") != visitor_name("token-2")
    assert "token" not in visitor_name("token-1")
