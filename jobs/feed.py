"""Between the search, whose trials may take milliseconds, and Ray Tune, whose trials should not. Knows no Ray."""

import time
from collections.abc import Callable, Sequence

from jobs.identity import trial_key
from jobs.known import Outcome
from jobs.limits import Limits
from jobs.plan import Trial
from jobs.search import Failure, Search
from jobs.tracking import Session, Tracker
from jobs.worker import Event

BATCH_SECONDS = 3.0  # how long the trials of a batch take together, where each takes less
LARGEST = 128  # trials of a batch
PER_CELL = 8  # trials of a batch for each cell: results teach the search what to propose next
START_SECONDS = 30.0  # in which the workers start, after the first of them
OnChange = Callable[[Search, Limits], None]


class Feed:
    """Makes batches of the search's trials, and takes back what happens to them."""

    def __init__(
        self,
        search: Search,
        session: Session,
        tracker: Tracker,
        limits: Limits,
        on_change: OnChange,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.search, self.limits = search, limits
        self._session, self._tracker = session, tracker
        self._on_change = on_change
        self._batches: dict[str, dict[int, Trial]] = {}  # what is not over yet, by Tune's id and index
        self._preempted: set[str] = set()
        self._heard: dict[str, float] = {}  # when a batch was first told of
        self._since: dict[str, float] = {}  # from when on a batch's time has not been counted
        self._now = now

    def next(self, batch_id: str) -> list[Trial]:
        """The next batch; empty if all is finished or waits."""
        batch: list[Trial] = []
        size = self._size()
        while len(batch) < size:
            self.limits.apply(self.search)
            trial = self.search.ask()
            if trial is None:
                break
            batch.append(trial)
        if batch:
            self._batches[batch_id] = dict(enumerate(batch))
            self._since[batch_id] = self._now()
            self._on_change(self.search, self.limits)
        return batch

    def take(self, batch_id: str, events: Sequence[Event]) -> bool:
        """Take note of what happened to a batch; whether its trial should stop, which then is over."""
        self._heard.setdefault(batch_id, self._now())
        batch = self._batches[batch_id]
        ended = {event["index"] for event in events if "epoch" not in event}
        for event in events:
            trial = batch.get(event["index"])
            if trial is None:  # Tune tells the last events of a stopped trial again
                continue
            if "epoch" in event:
                if self.search.report(trial, event["epoch"], event["value"]) and event["index"] not in ended:
                    self._tracker.stop_trial(self.search.spec, trial, event["run"], event["epoch"])
                    self._end(batch_id, event, None, None)
                    return True
                continue
            failure = Failure(event["failure"], event["kind"]) if "failure" in event else None
            self._end(batch_id, event, event.get("outcome"), failure)
        return False

    def over(self, batch_id: str, *, lost: bool) -> None:
        """A batch has ended. What a lost worker left undone is looked up, and tried again if it did not finish."""
        batch, since = self._batches.pop(batch_id), self._since.pop(batch_id)
        if not lost:
            return
        self.limits.lost(self._now() - since)
        found = {trial: self._tracker.look_up(self._session, self._key(trial)) for trial in batch.values()}
        nobody = not any(started for _, started in found.values())
        for trial, (known, started) in found.items():
            if known is not None:
                self.search.tell(trial, known.outcome)
            elif batch_id in self._preempted or not (started or nobody):
                self.search.tell(trial, None, Failure("its worker was preempted", "preempted"))
            else:
                self.search.tell(trial, None, Failure("its worker was lost, more often than retried", "lost"))
        self._on_change(self.search, self.limits)

    def hold(self) -> bool:
        """Whether a worker should wait with its second batch until all the others have started.

        Tune gives a free worker the batch for which it is starting another one, and gives that one up. Where batches
        take less time than that start, one worker would run all of them.
        """
        seconds = self.limits.trial_seconds
        short = seconds is not None and seconds < START_SECONDS
        if not short or len(self._heard) >= self.limits.workers:
            return False
        if self.search.closed is not None or not self.search.counts()["waiting"]:
            return False
        return self._now() - min(self._heard.values()) < START_SECONDS

    def preempted(self, batch_id: str) -> None:
        """The worker of a batch that is about to be over was lost with its node, as announced."""
        self._preempted.add(batch_id)

    def _end(self, batch_id: str, event: Event, outcome: Outcome | None, failure: Failure | None) -> None:
        self.search.tell(self._batches[batch_id].pop(event["index"]), outcome, failure)
        self.limits.ended(event["seconds"])
        self._since[batch_id] = self._now()
        self._on_change(self.search, self.limits)

    def _key(self, trial: Trial) -> str:
        return trial_key(self.search.spec, trial)

    def _size(self) -> int:
        """Batches last a few seconds, but leave enough for the other workers, and results for the search to learn."""
        seconds = self.limits.trial_seconds
        if seconds is None or self.search.spec.stopping.scheduler != "none":
            return 1
        waiting = self.search.counts()["waiting"]
        fair = -(-waiting // (2 * self.limits.workers))
        return max(1, min(LARGEST, int(BATCH_SECONDS / max(seconds, 1e-3)), fair, PER_CELL * len(self.search.cells)))
