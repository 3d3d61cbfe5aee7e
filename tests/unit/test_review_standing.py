"""Two readings of one case: who reads it twice, who sees what, and what it comes to."""

from datetime import UTC, datetime, timedelta

import pytest

from evenhand.errors import ReviewError
from evenhand.review import (
    Decision,
    Entry,
    Reason,
    Role,
    Stage,
    State,
    Verdict,
    agreement_by_month,
    agreement_of,
    check_task,
    drawn,
    reader_figures,
    stand,
    visible_to,
)

SHA = "a" * 64
FIRST, SECOND, THIRD = Stage.FIRST, Stage.SECOND, Stage.ADJUDICATION
ACCEPT, CORRECT, REJECT, UNSURE = (
    Verdict.ACCEPT,
    Verdict.CORRECT,
    Verdict.REJECT,
    Verdict.CANNOT_JUDGE,
)


def trail(*said, case_id="n001", day=1):
    """Entries in order; `said`: (reader, stage, verdict)."""
    entries = []
    for position, (reader, stage, verdict) in enumerate(said, start=1):
        drew = verdict in {CORRECT, Verdict.UNAIDED}
        decision = Decision(
            case_id=case_id,
            hospital="north",
            arm="federated",
            verdict=verdict,
            reader=reader,
            proposed_sha256=SHA,
            seconds=10.0 * position,
            slices_seen=(),
            reason=Reason.BOUNDARY if verdict in {CORRECT, REJECT, UNSURE} else None,
            corrected_sha256="b" * 64 if drew else None,
            corrected_path="corrected/b.nii.gz" if drew else None,
            dice=0.5 if drew else None,
            stage=stage,
        )
        when = datetime(2026, day, 1, tzinfo=UTC) + timedelta(minutes=position)
        entries.append(
            Entry(
                position=position,
                decided_at_utc=when,
                decision=decision,
                previous_sha256="0" * 64,
                sha256=f"{position:064d}",
            )
        )
    return entries


def standing(entries, *, dice=0.9, twice=True):
    """Where the case stands, if two masks always have this Dice."""
    return stand(entries, SHA, wants_second=twice, threshold=0.8, dice_of=lambda _, __: dice)


class TestDraw:
    """Who is read twice is decided by nobody."""

    def test_share(self):
        """About the wanted share is drawn, always the same; none at 0 and all at 1."""
        cases = [f"c{n}" for n in range(4000)]

        def lot(share, key=b"k" * 32, label="second"):
            return {case for case in cases if drawn(key, label, case, SHA, share)}

        # 4000 draws of 0.2: standard deviation 0.0063; five of them.
        assert abs(len(lot(0.2)) / 4000 - 0.2) < 0.032
        assert lot(0.2) == lot(0.2) < lot(0.5)
        assert (len(lot(0.0)), len(lot(1.0))) == (0, 4000)
        assert lot(0.2) != lot(0.2, key=b"o" * 32)
        assert lot(0.2) != lot(0.2, label="unaided")


class TestState:
    """What readings come to."""

    @pytest.mark.parametrize(
        ("said", "dice", "state"),
        [
            ([], 1.0, State.OPEN),
            ([("A", FIRST, ACCEPT)], 1.0, State.HALF_READ),
            ([("B", SECOND, ACCEPT)], 1.0, State.HALF_READ),
            ([("A", FIRST, ACCEPT), ("B", SECOND, CORRECT)], 0.8, State.ACCEPTED),
            ([("A", FIRST, ACCEPT), ("B", SECOND, CORRECT)], 0.79, State.DISPUTED),
            ([("B", SECOND, CORRECT), ("A", FIRST, CORRECT)], 0.9, State.CORRECTED),
            ([("A", FIRST, REJECT), ("B", SECOND, REJECT)], 0.0, State.REJECTED),
            ([("A", FIRST, REJECT), ("B", SECOND, ACCEPT)], 1.0, State.DISPUTED),
            ([("A", FIRST, UNSURE), ("B", SECOND, ACCEPT)], 1.0, State.DISPUTED),
            ([("A", FIRST, ACCEPT), ("A", FIRST, Verdict.WITHDRAW)], 1.0, State.OPEN),
            ([("A", FIRST, Verdict.UNAIDED)], 1.0, State.OPEN),
        ],
    )
    def test_read_twice(self, said, dice, state):
        """Near enough: the first reading stands. Too far: an adjudicator is needed."""
        assert standing(trail(*said), dice=dice).state is state

    def test_adjudicated(self):
        """The adjudicator's decision stands, until a reading below it changes."""
        said = [("A", FIRST, ACCEPT), ("B", SECOND, REJECT), ("C", THIRD, CORRECT)]
        assert standing(trail(*said)).state is State.CORRECTED
        later = standing(trail(*said, ("A", FIRST, REJECT)))
        assert later.adjudication is None
        assert later.state is State.REJECTED

    def test_read_once(self):
        """Without a second reading the first one stands at once."""
        assert standing(trail(("A", FIRST, REJECT)), twice=False).state is State.REJECTED

    def test_what_was_read_twice_stays_so(self):
        """Another share or key drops no second reading and no adjudication that is there."""
        said = [("A", FIRST, ACCEPT), ("B", SECOND, REJECT)]
        assert standing(trail(*said), twice=False).state is State.DISPUTED
        said.append(("C", THIRD, REJECT))
        assert standing(trail(*said), twice=False).state is State.REJECTED


class TestBlind:
    """Neither reader knows of the other before both are done."""

    @pytest.mark.parametrize(("me", "other"), [("A", "B"), ("B", "A")])
    def test_sees_only_their_own(self, me, other):
        """Before the second reading is done, the other's entries are not there."""
        stages = {"A": FIRST, "B": SECOND}
        entries = trail((other, stages[other], CORRECT))
        assert visible_to(me, entries, standing(entries), role=Role.READER) == []
        entries = trail((other, stages[other], CORRECT), (me, stages[me], ACCEPT))
        assert visible_to(me, entries, standing(entries), role=Role.READER) == entries

    def test_auditor_sees_all(self):
        """The auditor, who decides nothing, is not blinded."""
        entries = trail(("A", FIRST, CORRECT))
        assert visible_to("X", entries, standing(entries), role=Role.AUDITOR) == entries


class TestWhoMay:
    """A case is read by whoever may read it, and by nobody twice."""

    @pytest.mark.parametrize(
        ("person", "role", "said", "twice", "why"),
        [
            ("A", Role.ADMIN, [], True, "sees no cases"),
            ("A", Role.AUDITOR, [], True, "decides nothing"),
            ("B", Role.SECOND_READER, [], False, "not read twice"),
            ("A", Role.SECOND_READER, [("A", FIRST, ACCEPT)], True, "in another role"),
            ("A", Role.READER, [("A", SECOND, ACCEPT)], True, "in another role"),
            ("C", Role.READER, [("A", FIRST, ACCEPT)], True, "Another reader has done"),
            (
                "A",
                Role.READER,
                [("A", FIRST, ACCEPT), ("B", SECOND, REJECT)],
                True,
                "only an adjudicator",
            ),
            ("C", Role.ADJUDICATOR, [("A", FIRST, ACCEPT)], True, "nothing to adjudicate"),
            (
                "B",
                Role.ADJUDICATOR,
                [("A", FIRST, ACCEPT), ("B", SECOND, REJECT)],
                True,
                "read this case yourself",
            ),
        ],
    )
    def test_refused(self, person, role, said, twice, why):
        """Each in a sentence that gives nothing away."""
        entries = trail(*said)
        with pytest.raises(ReviewError, match=why):
            check_task(person, role, entries, standing(entries, twice=twice), write=True)

    def test_let_through(self):
        """Two different readers, and then a third person."""
        entries = trail(("A", FIRST, ACCEPT))
        check_task("B", Role.SECOND_READER, entries, standing(entries), write=True)
        check_task("A", Role.READER, entries, standing(entries), write=True)
        entries = trail(("A", FIRST, ACCEPT), ("B", SECOND, REJECT))
        check_task("C", Role.ADJUDICATOR, entries, standing(entries), write=True)
        check_task("X", Role.AUDITOR, entries, standing(entries), write=False)


class TestFigures:
    """How well readers agree."""

    def test_kappa_and_dice(self):
        """Kappa by hand: 3 of 4 alike; by chance (3/4)(2/4) + (1/4)(2/4) = 1/2; so 1/2."""
        pairs = [(ACCEPT, ACCEPT), (ACCEPT, ACCEPT), (ACCEPT, REJECT), (REJECT, REJECT)]
        standings = [standing(trail(("A", FIRST, one), ("B", SECOND, two))) for one, two in pairs]
        figures = agreement_of([*standings, standing(trail(("A", FIRST, ACCEPT)))])
        assert (figures.cases, figures.agreed, figures.dice) == (4, 3, (0.9, 0.9))
        assert figures.kappa == pytest.approx(0.5)

    def test_kappa_that_is_none(self):
        """Where all say the same, chance explains all, and kappa is not defined."""
        both = [("A", FIRST, ACCEPT), ("B", SECOND, ACCEPT)]
        assert agreement_of([standing(trail(*both))] * 3).kappa is None

    def test_over_time(self):
        """Each case counts in the month of its later reading."""
        both = [("A", FIRST, ACCEPT), ("B", SECOND, REJECT)]
        months = agreement_by_month([standing(trail(*both, day=day)) for day in (1, 2, 2)])
        assert {month: figures.cases for month, figures in months.items()} == {
            "2026-01": 1,
            "2026-02": 2,
        }

    def test_readers(self):
        """Medians and counts of each reader; withdrawals do not count."""
        entries = trail(("A", FIRST, ACCEPT), ("A", FIRST, Verdict.WITHDRAW), ("A", FIRST, CORRECT))
        (figures,) = reader_figures(entries)
        assert (figures.reader, figures.decisions, figures.median_seconds) == ("A", 2, 20.0)
        assert figures.verdicts == {ACCEPT: 1, CORRECT: 1}
        assert figures.median_dice == 0.5
