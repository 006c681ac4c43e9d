"""START HERE: settings -> parts -> pages -> serve. No logic lives in this file."""

import logging
import sys

from cl.settings import SettingsError, load_settings, quiet_libraries

quiet_libraries()  # before gradio is imported

from cl.cli.console import Console  # noqa: E402
from cl.db.database import DatabaseProblem  # noqa: E402
from cl.house import (  # noqa: E402
    AlreadyRunning,
    leave,
    load_ahead,
    open_books,
    open_house,
    serve_alone,
    sweep_up,
)
from cl.model.base_model import NoModel  # noqa: E402
from cl.web import address  # noqa: E402


def main() -> int:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    console = Console(as_json=False)
    settings = load_settings()
    with serve_alone(settings.data_dir), address.take(settings.host, settings.port) as listening:
        books = open_books(settings)
        sweep_up(books)
        house = open_house(books, console.progress)
        load_ahead(house)

        from cl.web import server  # noqa: PLC0415 (gradio is imported while the model loads)

        app = server.create_app(house)
        url = f"http://{'localhost' if settings.host in ('0.0.0.0', '127.0.0.1') else settings.host}:{settings.port}"
        console.say(f"The chat is at {url}")
        if token := books.accounts.ensure_admin():
            console.say(f"Sign in as admin, once, with this link: {url}/signin?link={token}")
        server.serve(app, listening)
        house.close()
    return 0


if __name__ == "__main__":
    try:
        leave(main())
    except (AlreadyRunning, DatabaseProblem, NoModel, SettingsError, OSError) as problem:
        sys.exit(f"{problem}")
