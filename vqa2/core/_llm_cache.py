"""The replies of language models on disk: one SQLite file, a committed row per reply, so that a kill loses none."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from vqa2.core.errors import DataError

_TABLE = """CREATE TABLE IF NOT EXISTS replies (
  key TEXT PRIMARY KEY, messages TEXT NOT NULL, text TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, model TEXT NOT NULL DEFAULT '')"""
_WAIT_S = 60
Row = tuple[str, int, int, str]


class Cache:
    """Replies by key: (text, prompt tokens, completion tokens, who answered). Several processes may share the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=_WAIT_S, check_same_thread=False)
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")  # one process at a time
                self._db.execute(_TABLE)
                if "model" not in {row[1] for row in self._db.execute("PRAGMA table_info(replies)")}:
                    # A file of an earlier version: who gave its replies is not known.
                    self._db.execute("ALTER TABLE replies ADD COLUMN model TEXT NOT NULL DEFAULT ''")
        except sqlite3.DatabaseError as err:
            raise DataError(f"{path}: not a reply cache ({err}); remove it or name another file") from None

    def get(self, key: str) -> Row | None:
        """The stored reply, None where there is none."""
        query = "SELECT text, prompt_tokens, completion_tokens, model FROM replies WHERE key = ?"
        with self._guard, closing(self._db.execute(query, (key,))) as cursor:
            return cursor.fetchone()

    def put(self, key: str, messages: list, row: Row) -> Row:
        """Stores a reply beside its prompt, which is kept for the reader of the file; returns what is stored now."""
        values = (key, json.dumps(messages, ensure_ascii=False), *row)
        with self._guard, self._db:
            # Two processes may have asked at the same time: the first answer stays, and both continue with it.
            self._db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?)", values)
        stored = self.get(key)
        assert stored is not None
        return stored

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Held by one thread of this process at a time, per key."""
        with self._guard:
            lock, users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks.pop(key)
                if users > 1:
                    self._locks[key] = lock, users - 1
