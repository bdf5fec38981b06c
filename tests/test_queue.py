"""The order of tasks: the queue, claims, failures and what waits for what. No task is really done."""

from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace

import pytest

from runners.evaluation.component import Component
from runners.evaluation.queue import Launch, TaskQueue
from runners.evaluation.tasks import Crafting, Purifying
from runners.store.artifact import Artifact, key_of
from runners.store.failures import Failure, failure_of
from runners.store.store import Store


@dataclass(frozen=True, eq=False)
class Craft(Crafting):
    """A crafting task that is known by its name."""

    name: str = ""

    @cached_property
    def artifact(self):
        return Artifact("adversarial", {"name": self.name})


@dataclass(frozen=True, eq=False)
class Purify(Purifying):
    """A purifying task that is known by its name."""

    name: str = field(default="")

    @cached_property
    def key(self):
        return key_of({"name": self.name})

    def records(self, purifier):
        return Artifact("records", {"name": self.name, "purifier": purifier.config})


CHUNK = SimpleNamespace(ids=("a/0", "a/1"))
SPEC = Component({"_target_": "purifiers.identity.Identity"})
ATTACK = Component({"_target_": "attacks.attack.Clean"})


def craft(name: str) -> Craft:
    return Craft(CHUNK, SPEC, ATTACK, Component({}), None, (), 0, "float32", name)


def purify(name: str, crafting: Craft) -> Purify:
    return Purify(crafting, (SPEC,), name=name)


def turns(store, tasks, launch="run", shard=None, **kwargs) -> TaskQueue:
    return TaskQueue(tasks, store=store, launch=Launch(launch, shard), **kwargs)


def make(store: Store, task) -> None:
    """Store the results of a task as if it had been done."""
    if isinstance(task, Crafting):
        store.put(task.artifact, b"examples")
    else:
        for purifier in task.purifiers:
            store.put(task.records(purifier), b"records")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize(
    ("shard", "expected"), [(0, "abcdefg"), (1, "efgabcd"), (2, "bcdefga"), (3, "fgabcde")]
)
def test_each_job_begins_at_its_own_place(shard, expected):
    assert "".join(Launch(shard=shard).ordered("abcdefg")) == expected


@pytest.mark.parametrize("jobs", [1, 2, 3, 8, 50, 1000])
def test_places_are_spread_over_the_queue_however_many_jobs_there_are(jobs):
    places = sorted(Launch(shard=shard).ordered(range(100_000))[0] for shard in range(jobs))
    gaps = [after - before for before, after in zip(places, [*places[1:], 100_000], strict=True)]
    assert max(gaps) < 2 * 100_000 / jobs


def test_no_task_is_a_queue_too():
    assert Launch(shard=3).ordered([]) == []


def test_examples_come_first_and_images_when_their_examples_are_there(store):
    first, second = craft("first"), craft("second")
    group = purify("group", first)
    queue = turns(store, [group, first, second])
    assert queue.next() is first
    assert queue.next() is second
    assert queue.next() is None
    make(store, first)
    queue.finished(first, None)
    assert queue.next() is group
    make(store, group)
    queue.finished(group, None)
    make(store, second)
    queue.finished(second, None)
    assert not queue.left
    assert not store.leases.held


def test_what_others_hold_or_have_done_is_left_to_them(store, tmp_path, monkeypatch):
    tasks = [craft("a"), craft("b"), craft("c")]
    other = Store(tmp_path)
    outcomes = []
    mine = turns(store, tasks, done=lambda task, reason: outcomes.append((task.name, reason)))
    theirs = turns(other, tasks)
    assert theirs.next() is tasks[0]
    assert mine.next() is tasks[1]
    make(other, tasks[0])
    theirs.finished(tasks[0], None)
    assert theirs.next() is tasks[2]
    make(store, tasks[1])
    mine.finished(tasks[1], None)
    assert mine.next() is None
    assert mine.left, "it waits for the task that the other queue holds"
    make(other, tasks[2])
    theirs.finished(tasks[2], None)
    monkeypatch.setattr("time.monotonic", lambda: 1e9)
    assert mine.next() is None
    assert not mine.left
    assert sorted(outcomes) == [("a", None), ("b", None), ("c", None)]


def test_a_job_leaves_what_others_hold_unless_something_waits_for_it(store, tmp_path):
    first, other = craft("first"), craft("other")
    theirs = turns(Store(tmp_path), [first])
    assert theirs.next() is first
    alone = turns(store, [first], shard=0)
    assert alone.next() is None
    assert not alone.left
    awaited = turns(store, [first, purify("group", first)], shard=0)
    assert awaited.next() is None
    assert awaited.left
    assert turns(store, [first, other], shard=0).next() is other


def test_a_failure_is_kept_and_what_needs_it_fails_with_it(store):
    first = craft("first")
    group, free = purify("group", first), purify("free", craft("there already"))
    queue = turns(store, [first, group, free])
    assert queue.next() is first
    queue.finished(first, Failure("ValueError: no", "Traceback ..."))
    assert queue.next() is free
    assert set(queue.reasons.values()) == {"ValueError: no"}
    assert queue.reasons.keys() == {first.key, group.records(SPEC).key}
    stored = failure_of(store, first.key)
    assert (stored.reason, stored.traceback, stored.launch) == ("ValueError: no", "Traceback ...", "run")
    assert "a/0 to a/1" in stored.path.read_text()


def test_a_failure_does_not_count_if_another_process_has_the_result(store):
    first = craft("first")
    group = purify("group", first)
    queue = turns(store, [first, group])
    assert queue.next() is first
    make(store, first)
    queue.finished(first, Failure("ValueError: no"))
    assert queue.next() is group
    assert queue.reasons == {}


def test_the_same_launch_does_not_try_again_and_the_next_does(store):
    first = craft("first")
    queue = turns(store, [first])
    queue.next()
    queue.finished(first, Failure("ValueError: no"))
    sibling = turns(store, [first])
    assert sibling.next() is None
    assert sibling.reasons == {first.key: "ValueError: no"}
    later = turns(store, [first], launch="another")
    assert later.next() is first
    make(store, first)
    later.finished(first, None)
    assert failure_of(store, first.key) is None, "a task whose result exists has not failed"


def test_what_is_given_up_is_free_for_others(store, tmp_path):
    first = craft("first")
    queue = turns(store, [first])
    assert queue.next() is first
    other = turns(Store(tmp_path), [first])
    assert other.next() is None
    queue.release()
    assert turns(Store(tmp_path), [first]).next() is first


def test_what_could_not_be_crafted_elsewhere_is_nobodys_turn(store, tmp_path):
    """The failure of another job is seen while this one goes through its list."""
    first = craft("first")
    group, free = purify("group", first), purify("free", craft("there already"))
    theirs = turns(Store(tmp_path), [first])
    theirs.next()
    theirs.finished(first, Failure("ValueError: no"))
    mine = turns(store, [first, group, free])
    assert mine.next() is free
    assert group.records(SPEC).key in mine.reasons
    mine.finished(free, Failure("ValueError: no"))
    assert mine.next() is None
    assert not mine.left
