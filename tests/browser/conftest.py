"""One browser for all that is here; it closes with the last of them, lest its loop be in the way of others' own."""

from browsing import browser, page  # noqa: F401 - fixtures
