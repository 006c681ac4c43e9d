"""Users: who may sign in, and as what."""

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from cl.accounts import LINK_HOURS
from cl.records import Role, User
from cl.web import look, markup, rights
from cl.web.admin.dialog import Deed, Offer
from cl.web.admin.tab import SMALL, Tab
from cl.web.markup import Markup

_MOST = 200  # shown at once


class Users(Tab):
    name = "Users"

    def show(self, search: Any, request: gr.Request) -> tuple[str, str]:
        user = self.who(request)
        return self._list(search, user), ""

    def add(self, name: Any, role: Any, search: Any, request: gr.Request) -> tuple[str, str, str]:
        user, name = self.who(request), str(name or "").strip()
        try:
            token = self._books.accounts.add(name, Role(role), user.name)
        except ValueError as problem:
            raise rights.problem(problem) from None
        return self._list(search, user), _link(name, token), ""

    def pick(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """A button of the list: a new link at once, everything else is asked first."""
        user = self.who(request)
        act, name = str(getattr(event, "act", "")), str(getattr(event, "name", ""))
        if act != "link":
            return "", *self._asking.ask(act, name, request)
        try:
            token = self._books.accounts.new_link(name, user.name)
        except ValueError as problem:
            raise rights.problem(problem) from None
        return _link(name, token), *self._asking.nothing()

    def _list(self, search: Any, me: User) -> str:
        words = str(search or "").strip().lower()
        found = [u for u in self._books.accounts.users() if words in u.name.lower()]
        return user_list(found, me)

    # -- deciding --------------------------------------------------------------------------

    def offers(self) -> dict[str, Offer]:
        return {
            "make-admin": lambda name: self._role(name, Role.ADMIN),
            "make-staff": lambda name: self._role(name, Role.STAFF),
            "deactivate": lambda name: self._active(name, False),
            "activate": lambda name: self._active(name, True),
        }

    def _role(self, name: str, role: Role) -> Deed:
        accounts, found = self._books.accounts, self._found(name)
        if found.role is role:
            raise rights.problem(f"{found.name} is {role} already.")
        effects = {
            Role.ADMIN: "An admin sees what everybody was answered and decides about versions.",
            Role.STAFF: "The admin page closes for them at once, and they have to sign in anew.",
        }
        return Deed(
            f"Make {found.name} {role}?",
            effects[role],
            lambda who, why: accounts.set_role(found.name, role, who, why),
            typed=found.name,
        )

    def _active(self, name: str, active: bool) -> Deed:
        accounts, found = self._books.accounts, self._found(name)
        if found.active == active:
            raise rights.problem(f"{found.name} is {'active' if active else 'not active'} already.")

        def do(who: str, why: str) -> None:
            accounts.set_active(found.name, active, who, why)

        if active:
            return Deed(f"Activate {found.name}?", "They can sign in again.", do)
        effect = "Their sessions end at once, and they cannot sign in. Their chats stay."
        return Deed(f"Deactivate {found.name}?", effect, do, typed=found.name)

    def _found(self, name: str) -> User:
        found = self._books.accounts.find(name)
        if found is None:
            raise rights.problem(f"There is no user {name}.")
        return found

    def build(self) -> tuple[list[Any], list[Any]]:
        with gr.Column(elem_classes="box"):
            look.html(markup.title("Add somebody"))
            with gr.Row(elem_classes="fields"):
                field: dict[str, Any] = {"min_width": 180, "scale": 0}
                name = gr.Textbox(
                    label="Name", max_length=64, max_lines=1, elem_id="user-name", **field
                )
                role = gr.Dropdown(
                    [r.value for r in Role],
                    value=Role.STAFF.value,
                    label="Role",
                    elem_id="user-role",
                    **field,
                )
                add = gr.Button("Add", variant="primary", elem_id="user-add", **SMALL)
            given = look.html(elem_id="user-link")
        with gr.Column(elem_classes="box"):
            search = gr.Textbox(
                label="Search users",
                show_label=False,
                placeholder="Search users",
                max_lines=1,
                container=False,
                elem_id="user-search",
            )
            people = look.html(elem_id="users", acts=True)
        for event in (add.click, name.submit):
            event(self.add, [name, role, search], [people, given, name], **look.QUIET)
        search.input(self.show, search, [people, given], trigger_mode="always_last", **look.QUIET)
        people.select(self.pick, None, [given, *self._asking.asked], **look.QUIET)
        return [search], [people, given]


# -- markup ----------------------------------------------------------------------------------


def user_list(found: Sequence[User], me: User) -> str:
    rows = [
        (
            user.name + (" (you)" if user.name == me.name else ""),
            markup.pill(user.role.value, "acc" if user.is_admin else "mut"),
            markup.pill("active", "good") if user.active else markup.pill("not active", "bad"),
            _buttons(user),
        )
        for user in found[:_MOST]
    ]
    more = len(found) - _MOST
    rest = f"<p class='mut small'>{more:,} more: search for a name.</p>" if more > 0 else ""
    headers = ("Name", "Role", "State", "")
    return markup.table(headers, rows, "Nobody of this name.") + rest


def _buttons(user: User) -> Markup:
    name = user.name
    role = "make-staff" if user.is_admin else "make-admin"
    active = "deactivate" if user.active else "activate"
    found = [
        markup.button("New sign-in link", "link", f"New sign-in link for {name}", name=name),
        markup.button(
            role.replace("-", " ").capitalize(),
            role,
            f"{role.replace('-', ' ')}: {name}",
            name=name,
        ),
        markup.button(
            active.capitalize(), active, f"{active} {name}", name=name, danger=user.active
        ),
    ]
    return Markup(f"<span class='buttons'>{''.join(found)}</span>")


def _link(name: str, token: str) -> str:
    return (
        f"<p>One-time link for <b>{escape(name)}</b>, good for {LINK_HOURS // 24} days. Send it to "
        f"them alone.</p><code>/signin?link={escape(token)}</code>"
    )
