"""A run whose people log in through a proxy: its rules, its people, what the proxy sends."""

from unittest import mock

from evenhand.review import Author, Person, ReviewStore, Role, Way, put_person, set_passphrase
from evenhand_ui.runs import ReviewRun

SECRET = "0123456789abcdef-of-the-proxy"  # noqa: S105 - made up
WORDS = "seven blue ducks"

BY = Author(name="adm", way=Way.PAGE)
"""Who makes changes of people in tests."""

ROLES = {
    "r1": {Role.READER},
    "r2": {Role.READER, Role.SECOND_READER},
    "adj": {Role.ADJUDICATOR},
    "aud": {Role.AUDITOR},
    "adm": {Role.ADMIN},
}


def rules_text(folder, *, more=""):
    """Rules with a proxy; its secret lies beside the run."""
    secret = folder.parent / "proxy.secret"
    secret.write_text(SECRET + "\n", encoding="utf-8")
    return f'login = "proxy"\n{more}\n[proxy]\nsecret_file = "{secret}"\n'


def with_people(folder, *, more="", passphrases=True):
    """Give a run rules and people."""
    run = ReviewRun.open(folder)
    own = run.database.parent
    own.mkdir(exist_ok=True)
    (own / "rules.toml").write_text(rules_text(folder, more=more), encoding="utf-8")
    # The cost of a hash is stored with it; here it need not hold anybody up.
    cheap = mock.patch("evenhand.review.people._MEMORY_KIB", 64)
    with cheap, ReviewStore(run.database) as store:
        for name, roles in ROLES.items():
            person = Person(
                person_id=name,
                login=f"{name}@hospital",
                name=f"Dr. {name.upper()}",
                roles=frozenset(roles),
            )
            put_person(store, person, by=BY)
            if passphrases:
                set_passphrase(store, name, WORDS)
    return folder


def proxied(person_id, secret=SECRET):
    """Headers that the proxy adds to a person's request."""
    return {"X-Remote-User": f"{person_id}@hospital", "X-Evenhand-Proxy": secret}
