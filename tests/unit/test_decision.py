"""The pure core: what it may never say, and what it says in each situation."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tts_tasks.coordination.base import Lease
from tts_workers.decision import (
    Acquire,
    Demote,
    Leadership,
    Recover,
    Remove,
    Renew,
    View,
    decide,
)
from tts_workers.watchdog import Silence

NOW_S = 100.0
MINE = Lease(7, "me")
THEIRS = Lease(8, "other")
LEADING = Leadership(MINE, deadline_s=NOW_S + 1, renew_at_s=NOW_S - 0.1)
READY = View(me="me", ready=True, draining=False, leadership=None, lease=None, store_reachable=True)


def test_a_ready_worker_takes_a_free_lane() -> None:
    """A free lane is taken by a worker whose engine has spoken."""
    assert decide(READY, NOW_S) == [Acquire()]


def test_a_worker_that_is_not_ready_or_drains_takes_nothing() -> None:
    """Ready means it has spoken; a draining worker is no candidate."""
    assert decide(replace(READY, ready=False), NOW_S) == []
    assert decide(replace(READY, draining=True), NOW_S) == []


def test_the_primary_renews_when_it_is_time() -> None:
    """A renewal is due a heartbeat after the last one was sent, not earlier."""
    view = replace(READY, leadership=LEADING, lease=MINE)
    assert decide(view, NOW_S) == [Renew(MINE)]
    early = replace(view, leadership=replace(LEADING, renew_at_s=NOW_S + 0.1))
    assert decide(early, NOW_S) == []


def test_a_primary_past_its_deadline_demotes_itself_without_a_store() -> None:
    """Leadership ends by itself when the store cannot be asked."""
    late = replace(LEADING, deadline_s=NOW_S)
    view = replace(READY, leadership=late, store_reachable=False)
    assert decide(view, NOW_S) == [Demote(MINE, "the renew deadline passed")]


def test_a_primary_that_cannot_reach_the_store_waits_for_its_deadline() -> None:
    """A store that is away for a moment costs nobody the leadership."""
    view = replace(READY, leadership=LEADING, store_reachable=False)
    assert decide(view, NOW_S) == []


def test_a_primary_whose_lease_is_somebody_elses_demotes_itself_and_removes_nothing() -> None:
    """The successor's lease is not touched."""
    (action,) = decide(replace(READY, leadership=LEADING, lease=THEIRS), NOW_S)
    assert isinstance(action, Demote)


def test_a_primary_whose_engine_died_hands_over_at_once() -> None:
    """A known death does not wait for three heartbeats."""
    view = replace(READY, ready=False, leadership=LEADING, lease=MINE)
    assert [type(action) for action in decide(view, NOW_S)] == [Demote, Remove]


def test_an_own_lease_without_belief_is_removed_and_never_adopted() -> None:
    """After a lost reply nobody knows the deadline: start again under a new epoch."""
    (action,) = decide(replace(READY, lease=MINE), NOW_S)
    assert isinstance(action, Remove)
    assert action.lease == MINE


def test_a_silent_primary_is_deposed_recovered_and_succeeded() -> None:
    """After three missed heartbeats the standby removes the exact record and takes over."""
    view = replace(READY, lease=THEIRS, silences={"other": Silence(3.0), "me": Silence()})
    removal, *rest = decide(view, NOW_S)
    assert isinstance(removal, Remove)
    assert removal.lease == THEIRS
    assert rest == [Acquire(), Recover("other", 3.0)]


def test_a_primary_that_is_only_late_is_left_alone() -> None:
    """Two missed heartbeats are not three."""
    assert decide(replace(READY, lease=THEIRS, silences={"other": Silence(2.9, 0.1)}), NOW_S) == []


def test_a_primary_whose_connection_stayed_closed_is_deposed_without_three_heartbeats() -> None:
    """What the kernel told the store is known: only the grace for a reconnection is waited for."""
    removal, *_ = decide(replace(READY, lease=THEIRS, silences={"other": Silence(0.6, 0.5)}), NOW_S)
    assert isinstance(removal, Remove)


def test_nobody_declares_itself_dead() -> None:
    """A worker that sees its own record stand still does not recover itself."""
    assert decide(replace(READY, lease=THEIRS, silences={"me": Silence(99.0, 99.0)}), NOW_S) == []


leases = st.none() | st.builds(Lease, st.integers(1, 5), st.sampled_from(["me", "other", "third"]))
views = st.builds(
    View,
    me=st.just("me"),
    ready=st.booleans(),
    draining=st.booleans(),
    leadership=st.none()
    | st.builds(
        Leadership,
        st.builds(Lease, st.integers(1, 5), st.just("me")),
        st.floats(95, 105),
        st.floats(95, 105),
    ),
    lease=leases,
    store_reachable=st.booleans(),
    silences=st.dictionaries(
        st.sampled_from(["me", "other", "third"]),
        st.builds(Silence, st.floats(0, 10), st.floats(0, 1)),
    ),
)


@given(views)
def test_no_view_leads_to_a_forbidden_action(view: View) -> None:
    """No renewal past the deadline or of a foreign lease, no removal of a living rival's."""
    actions = decide(view, NOW_S)
    leads = view.leadership
    if leads and leads.deadline_s <= NOW_S:
        assert isinstance(actions[0], Demote)
        assert not any(isinstance(action, Renew) for action in actions)
    for action in actions:
        match action:
            case Renew(lease):
                assert view.lease == lease
                assert lease.holder == "me"
            case Remove(lease):
                assert view.lease == lease
                silence = view.silences.get(lease.holder, Silence())
                assert (
                    lease.holder == "me"
                    or silence.silent_s >= view.silence_limit_s
                    or silence.absent_s >= view.presence_grace_s
                )
            case Acquire():
                assert view.ready
                assert not view.draining
            case Recover(worker):
                assert worker != "me"
    if not view.store_reachable:
        assert all(isinstance(action, Demote) for action in actions)


def test_only_the_reserved_successor_is_a_candidate() -> None:
    """While a switchover is ordered nobody else takes the free lane."""
    assert decide(replace(READY, successor="other"), NOW_S) == []
    assert decide(replace(READY, successor="me"), NOW_S) == [Acquire()]


def test_the_primary_gives_way_to_the_ordered_successor() -> None:
    """It stops to believe before it lets go of the lease; the successor itself just renews."""
    view = replace(READY, leadership=LEADING, lease=MINE)
    demotion, removal = decide(replace(view, successor="other"), NOW_S)
    assert isinstance(demotion, Demote)
    assert isinstance(removal, Remove)
    assert removal.lease == MINE
    assert decide(replace(view, successor="me"), NOW_S) == [Renew(MINE)]
