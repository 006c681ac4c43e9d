"""The address the app is served at: taken first, so that a port in use is told before the long work."""

import errno
import os
import socket


class AddressTaken(OSError):
    """The app cannot be served at this address; the text says what to do."""


def take(host: str, port: int) -> socket.socket:
    """A socket bound to this address, not yet listening. Raises AddressTaken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":  # a port that was just given up is free; elsewhere this would share it
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as problem:
        bound.close()
        raise AddressTaken(_explain(problem, host, port)) from None
    return bound


def _explain(problem: OSError, host: str, port: int) -> str:
    if problem.errno == errno.EADDRINUSE:
        return f"Port {port} is in use already. Stop what uses it, or set CL_PORT to another one."
    return f"Cannot listen at {host}:{port}: {problem}. Check CL_HOST and CL_PORT."
