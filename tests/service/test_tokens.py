"""Tokens: made, found, expired, revoked; kept as hashes for their owner alone."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.errors import UserError
from service.tokens import SCOPES, TokenFile
from tests.conftest import new_home, run_command


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens.json")


def test_a_token_is_found_and_only_its_hash_is_kept(file: TokenFile) -> None:
    text, token = file.create("ci", "submit", days=1)
    assert file.find(text) == token
    assert token.usable(time.time())
    assert not token.usable(time.time() + 86_401)
    assert [token.allows(scope) for scope in SCOPES] == [True, True, False]
    assert file.path.stat().st_mode & 0o777 == 0o600
    secret = text.rpartition("_")[2]
    assert secret not in file.path.read_text()
    assert len(secret) > 20


@pytest.mark.parametrize("change", ["", "x", "cops_", "cops__", "cops_00000000_x", "é", "\udcff"])
def test_what_is_no_token_is_not_found(file: TokenFile, change: str) -> None:
    text, token = file.create("ci", "read")
    assert file.find(change) is None
    assert file.find(text + change) is (token if not change else None) or file.find(text) == token
    assert file.find(text[:-1]) is None
    assert file.find(f"cops_{token.id}_{'x' * 43}") is None


def test_revoked_elsewhere_is_revoked_here(file: TokenFile) -> None:
    text, token = file.create("ci", "read")
    assert file.find(text) is not None
    TokenFile(file.path).revoke(token.id)
    found = file.find(text)
    assert found is not None
    assert not found.usable(time.time())
    with pytest.raises(UserError, match="no token 'nope'"):
        file.revoke("nope")


def test_many_at_once_lose_none(file: TokenFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda at: TokenFile(file.path).create(f"n{at}", "read"), range(24)))
    assert {token.id for token in file.tokens()} == {token.id for _, token in made}
    assert all(file.find(text) == token for text, token in made)


@pytest.mark.parametrize(
    ("name", "scope", "days", "message"),
    [
        ("ci", "write", None, "unknown scope 'write': known are read, submit, admin"),
        ("", "read", None, "name = ''"),
        ("a\nb", "read", None, "name ="),
        ("ci", "read", 0, "days = 0"),
        ("ci", "read", float("nan"), "days = nan"),
    ],
)
def test_bad_wishes_are_refused(file: TokenFile, name: str, scope: str, days: float | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        file.create(name, scope, days)
    assert not file.path.exists()


@pytest.mark.parametrize(("content", "message"), [("{", "damaged"), ('[{"id": "a"}]', "damaged")])
def test_a_damaged_file_is_not_an_empty_one(file: TokenFile, content: str, message: str) -> None:
    file.path.write_text(content)
    file.path.chmod(0o600)
    with pytest.raises(UserError, match=message):
        file.find("cops_x_y")
    with pytest.raises(UserError, match=message):
        file.create("ci", "read")
    assert file.path.read_text() == content


def test_a_file_that_others_may_write_is_refused(file: TokenFile) -> None:
    file.create("ci", "admin")
    file.path.chmod(0o666)
    with pytest.raises(UserError, match="chmod 600"):
        file.tokens()


def test_by_command(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    cops = ("-m", "service.cli", "token")
    made = run_command(home, *cops, "create", "ci", "--scope", "submit", "--days", "7", "--json")
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    found = TokenFile(home.path / "tokens.json").find(told["token"])
    assert found is not None
    assert (found.name, found.scope) == ("ci", "submit")
    listed = run_command(home, *cops, "list", COLUMNS="100")
    assert told["id"] in listed.stdout
    assert told["token"] not in listed.stdout
    assert "expires" in listed.stdout
    assert run_command(home, *cops, "revoke", told["id"]).returncode == 0
    assert "revoked" in run_command(home, *cops, "list").stdout
    bad = run_command(home, *cops, "create", "ci", "--scope", "write")
    assert (bad.returncode, bad.stderr.count(os.linesep)) == (2, 1)
