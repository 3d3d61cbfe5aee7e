"""Who may work on the page, and the passphrases they sign with."""

import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from evenhand.errors import ReviewError
from evenhand.review import (
    Author,
    Person,
    PersonEvent,
    ReviewStore,
    Role,
    Way,
    check_passphrase,
    claim_case,
    clear_passphrase,
    links_csv,
    parse_roles,
    people,
    people_changes,
    person_by_id,
    person_by_login,
    put_person,
    remove_person,
    set_passphrase,
    verify_people,
)
from review_people import BY
from review_schemas import behind

WORDS = "seven blue ducks"


def lee(**changes):
    """A reader, with changes."""
    fields = {
        "person_id": "r1",
        "login": "j.lee@hospital",
        "name": "Dr. J. Lee",
        "roles": frozenset({Role.READER, Role.SECOND_READER}),
    }
    return Person(**(fields | changes))


@pytest.fixture
def path(tmp_path):
    """Where the database is."""
    return tmp_path / "review.sqlite"


@pytest.fixture
def store(path):
    """A store with one person."""
    with ReviewStore(path) as opened:
        put_person(opened, lee(), by=BY)
        yield opened


def test_found_by_id_and_login(store):
    """A person is found by what the login says and by their pseudonym; others are nobody."""
    assert person_by_id(store, "r1") == person_by_login(store, "j.lee@hospital") == lee()
    assert person_by_id(store, "r2") is None
    assert person_by_login(store, "r1") is None


def test_changed_and_removed(store):
    """Roles can be changed without losing the passphrase; who is removed may do nothing."""
    set_passphrase(store, "r1", WORDS)
    put_person(store, lee(roles=frozenset({Role.ADMIN})), by=BY)
    assert people(store) == [lee(roles=frozenset({Role.ADMIN}), has_passphrase=True)]
    remove_person(store, "r1", by=BY)
    assert people(store) == []
    with pytest.raises(ReviewError, match="no such person"):
        remove_person(store, "r1", by=BY)


def test_one_login_one_person(store):
    """Two people cannot share a login: their signatures could not be told apart."""
    with pytest.raises(ReviewError, match="login already"):
        put_person(store, lee(person_id="r2"), by=BY)


def test_blanks_around_a_login_do_not_lock_out(store):
    """A login that was pasted with a blank is the one that the proxy sends, and still one's own."""
    put_person(store, lee(login=" j.lee@hospital "), by=BY)
    assert person_by_login(store, "j.lee@hospital") == lee()
    with pytest.raises(ReviewError, match="login already"):
        put_person(store, lee(person_id="r2", login="j.lee@hospital "), by=BY)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"person_id": "../r"}, "pseudonym"),
        ({"person_id": ""}, "pseudonym"),
        ({"login": " "}, "login"),
        ({"roles": frozenset()}, "needs a role"),
        ({"roles": frozenset({Role.AUDITOR, Role.SECOND_READER})}, "auditor sees all"),
    ],
)
def test_refused(change, why):
    """Nobody without a name or role, and no auditor of their own readings."""
    with pytest.raises(ReviewError, match=why):
        lee(**change)


def test_unknown_role():
    """A role that does not exist is refused, and those that do are named."""
    assert parse_roles(["admin"]) == {Role.ADMIN}
    with pytest.raises(ReviewError, match="reader, second-reader"):
        parse_roles(["chief"])


def test_passphrase(store, path):
    """The right one passes, another does not, and the file holds neither."""
    set_passphrase(store, "r1", WORDS)
    check_passphrase(store, "r1", WORDS, now_s=0)
    with pytest.raises(ReviewError, match="not your passphrase"):
        check_passphrase(store, "r1", WORDS + "x", now_s=0)
    (kept,) = sqlite3.connect(path).execute("SELECT passphrase FROM people").fetchone()
    assert kept.startswith("$argon2id$v=19$m=47104,t=1,p=1$")
    assert WORDS not in kept


@pytest.mark.parametrize("short", ["", "1234567", "aaaaaaaaaaaa"])
def test_weak_passphrase(store, short):
    """One that is guessed at once is refused."""
    with pytest.raises(ReviewError, match="8 characters"):
        set_passphrase(store, "r1", short)


def test_set_once(store):
    """Who has stolen a window cannot choose a new passphrase; an administrator can clear it."""
    with pytest.raises(ReviewError, match="no passphrase yet"):
        check_passphrase(store, "r1", WORDS, now_s=0)
    set_passphrase(store, "r1", WORDS)
    with pytest.raises(ReviewError, match="set already"):
        set_passphrase(store, "r1", "another of mine")
    clear_passphrase(store, "r1", by=BY)
    set_passphrase(store, "r1", "another of mine")
    check_passphrase(store, "r1", "another of mine", now_s=0)


def test_guessing_takes_time(store, path):
    """After five wrong ones even the right one has to wait, over a restart too."""
    set_passphrase(store, "r1", WORDS)
    for _ in range(5):
        with pytest.raises(ReviewError, match="not your"):
            check_passphrase(store, "r1", "wrong", now_s=100)
    with ReviewStore(path) as again:
        with pytest.raises(ReviewError, match="try again in 15 min"):
            check_passphrase(again, "r1", WORDS, now_s=101)
        check_passphrase(again, "r1", WORDS, now_s=100 + 15 * 60)


class TestChanges:
    """Each change is in the trail, with who made it; a secret never is."""

    def test_all_of_them(self, store, path):
        """Added, changed, chosen, cleared, removed: once each, in order; the chain is intact."""
        put_person(store, lee(), by=BY)  # nothing changed, so nothing is recorded
        put_person(store, lee(roles=frozenset({Role.ADJUDICATOR})), by=BY)
        set_passphrase(store, "r1", WORDS)
        account = Author.of_account()
        clear_passphrase(store, "r1", by=account)
        remove_person(store, "r1", by=account)
        links = people_changes(store)
        own = Author(name="r1", way=Way.PAGE)
        assert [(link.record.change, link.record.by) for link in links] == [
            (PersonEvent.ADDED, BY),
            (PersonEvent.CHANGED, BY),
            (PersonEvent.PASSPHRASE_CHOSEN, own),
            (PersonEvent.PASSPHRASE_CLEARED, account),
            (PersonEvent.REMOVED, account),
        ]
        assert [len(link.record.roles) for link in links] == [2, 1, 1, 1, 1]
        check = verify_people(store)
        assert (check.length, check.broken_at, check.head_sha256) == (5, None, links[-1].sha256)
        table = links_csv("people", links)
        assert "added,r1,j.lee@hospital,Dr. J. Lee,reader second-reader,adm,page," in table
        connection = sqlite3.connect(path)
        kept = str(connection.execute("SELECT * FROM people_changes").fetchall())
        connection.close()
        assert "argon2" not in kept
        assert WORDS not in kept

    def test_refused_is_not_recorded(self, store):
        """What did not happen is not in the trail."""
        with pytest.raises(ReviewError):
            put_person(store, lee(person_id="r2"), by=BY)
        with pytest.raises(ReviewError):
            remove_person(store, "r3", by=BY)
        assert len(people_changes(store)) == 1

    @pytest.mark.parametrize(
        ("statement", "place", "why"),
        [
            ("UPDATE people_changes SET author = 'r1' WHERE position = 1", 1, "was changed"),
            ("DELETE FROM people_changes WHERE position = 1", 1, "change of people 1 is missing"),
            ("UPDATE people SET roles = 'admin'", 3, "without a record"),
            ("UPDATE people SET login = 'x'", 3, "without a record"),
            ("DELETE FROM people", 3, "without a record"),
        ],
    )
    def test_past_the_trail(self, store, path, statement, place, why):
        """Who changes the record, or a person without one, is found."""
        set_passphrase(store, "r1", WORDS)
        behind(path, statement)
        check = verify_people(store)
        assert (check.length, check.broken_at) == (
            1 if "DELETE FROM people_" in statement else 2,
            place,
        )
        assert why in check.why


class TestAtOnce:
    """A hash takes its time; meanwhile others write, and nobody gets past the count."""

    @pytest.fixture
    def held(self, store, monkeypatch):
        """Looking at a passphrase waits for `go`; `begun` counts those that wait."""
        set_passphrase(store, "r1", WORDS)
        go, begun = threading.Event(), threading.Semaphore(0)

        def fits(passphrase, _kept):
            begun.release()
            assert go.wait(120)
            return passphrase == WORDS

        monkeypatch.setattr(sys.modules["evenhand.review.people"], "_fits", fits)
        with ThreadPoolExecutor(12) as pool:

            def try_it(words):
                return pool.submit(check_passphrase, store, "r1", words, now_s=100)

            yield go, begun, try_it
            go.set()

    def test_others_write(self, store, held):
        """While one signs, another's claim is taken at once."""
        go, begun, try_it = held
        signing = try_it(WORDS)
        assert begun.acquire(timeout=120)
        with ThreadPoolExecutor(1) as pool:
            claim = pool.submit(claim_case, store, "federated", "n001", "r2", now_s=0)
            assert claim.result(timeout=120).reader == "r2"
        assert not signing.done()
        go.set()
        assert signing.result(timeout=120) is None

    def test_no_more_than_five(self, store, held):
        """Of twelve at once five are looked at; after them even the right one has to wait."""
        go, begun, try_it = held
        tries = [try_it("wrong words") for _ in range(12)]
        for _ in range(5):
            assert begun.acquire(timeout=120)
        go.set()
        why = [str(one.exception(timeout=120)) for one in tries]
        assert sum("not your passphrase" in one for one in why) == 5
        assert sum("try again in 15 min" in one for one in why) == 7
        assert not begun.acquire(blocking=False)
        with pytest.raises(ReviewError, match="try again"):
            check_passphrase(store, "r1", WORDS, now_s=101)

    def test_right_one_lifts_no_block_of_others(self, store, held):
        """Who is right is let through, but wrong ones that came meanwhile block all the same."""
        go, begun, try_it = held
        right = try_it(WORDS)
        assert begun.acquire(timeout=120)
        wrong = [try_it("wrong words") for _ in range(4)]
        for _ in wrong:
            assert begun.acquire(timeout=120)
        go.set()
        assert right.result(timeout=120) is None
        assert all(one.exception(timeout=120) for one in wrong)
        with pytest.raises(ReviewError, match="try again"):
            check_passphrase(store, "r1", WORDS, now_s=101)

    def test_fifth_try_is_right(self, store, held):
        """Four wrong ones and then the right one: nobody has to wait, and the count begins anew."""
        go, _, try_it = held
        go.set()
        for _ in range(2):
            for _ in range(4):
                assert "not your" in str(try_it("wrong words").exception(timeout=120))
            assert try_it(WORDS).result(timeout=120) is None

    def test_cleared_meanwhile(self, store, held):
        """A passphrase that was cleared while it was looked at signs nothing."""
        go, begun, try_it = held
        signing = try_it(WORDS)
        assert begun.acquire(timeout=120)
        clear_passphrase(store, "r1", by=BY)
        go.set()
        assert "changed just now" in str(signing.exception(timeout=120))
