"""Optuna studies in a database, SQLite or PostgreSQL.

Optuna stores a trial in a transaction of its own and some ten statements, 10 ms of computing that compete with the
search for the interpreter. A sweep of short trials ends dozens per second: here, a thread stores all that ended in a
second together, in the same rows. That takes Optuna's own tables, which are not public: its version is pinned.
"""

import json
import logging
import math
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Literal

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import create_engine, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from jobs.errors import UserError
from jobs.patience import patiently

optuna.logging.set_verbosity(optuna.logging.ERROR)

STORE_SECONDS = 1.0  # between two transactions
CLOSE_SECONDS = 120.0  # of waiting for a database that is away when the sweep ends
CONNECT_SECONDS = 10
Direction = Literal["maximize", "minimize"]


def _passing(error: BaseException) -> bool:
    """Whether a database that is locked, away or starting explains an error."""
    away = isinstance(error, DBAPIError) and error.connection_invalidated
    return away or isinstance(error, (OperationalError, InterfaceError, StorageInternalError))


def check(url: str) -> None:
    """Refuse a database that cannot be reached.

    Raises:
        UserError: names the URL without its password.
    """
    brief = {"connect_timeout": CONNECT_SECONDS} if url.startswith("postgresql") else {}
    try:
        engine = create_engine(url, connect_args=brief)
        with engine.connect() as connection:
            connection.execute(select(1))
        engine.dispose()
    except Exception as error:  # SQLAlchemy's, the driver's, or a missing driver's
        said = getattr(error, "orig", None) or error
        raise UserError(
            f"COPS_STUDIES = '{_hidden(url)}' cannot be used as a database: {said}; check its address, name, user and "
            "password (PGPASSFILE or the URL)"
        ) from None


class Studies:
    """External storage of all studies.

    Args:
        url: SQLAlchemy's, of SQLite or PostgreSQL.

    Raises:
        UserError: the database cannot be used.
    """

    def __init__(self, url: str) -> None:
        patient = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
        try:
            self._storage = optuna.storages.RDBStorage(url, engine_kwargs=patient)
        except Exception as error:  # SQLAlchemy's, the driver's, or a missing driver's
            raise UserError(f"COPS_STUDIES = '{_hidden(url)}' cannot be used as a database: {error}") from None
        self._ended: SimpleQueue[tuple[str, FrozenTrial]] = SimpleQueue()
        self._closing = Event()
        self._writer = Thread(target=self._write, name="studies", daemon=True)
        self._writer.start()

    @patiently(_passing)
    def load(self, name: str, directions: list[Direction]) -> list[FrozenTrial]:
        """All trials of a study, which is created if there is none."""
        study = optuna.create_study(study_name=name, storage=self._storage, directions=directions, load_if_exists=True)
        return study.get_trials(deepcopy=False)

    def keep(self, name: str, trial: FrozenTrial) -> None:
        """Add a trial that has ended to a study that was loaded, soon."""
        self._ended.put((name, trial))

    def close(self) -> None:
        """Wait until everything is written."""
        self._closing.set()
        self._writer.join()

    def _write(self) -> None:
        ended, again, last = dict[str, list[FrozenTrial]](), False, math.inf
        while not (self._closing.is_set() and not ended and self._ended.empty()):
            if self._closing.wait(STORE_SECONDS):
                last = min(last, time.monotonic() + CLOSE_SECONDS)
                time.sleep(STORE_SECONDS * again)
            while (item := self._next()) is not None:
                ended.setdefault(item[0], []).append(item[1])
            try:
                with Session(self._storage.engine) as session, session.begin():
                    for name, trials in sorted(ended.items()):  # in one order, lest two sweeps wait for each other
                        _add(session, name, _missing(session, name, trials) if again else trials)
            except Exception as error:
                if _passing(error) and time.monotonic() < last:
                    again = True  # they are stored with the next ones, unless they were and the answer alone was lost
                    continue
                logging.getLogger(__name__).exception("%d studies: trials were not stored", len(ended))
            ended, again = {}, False  # what is missing, the next start adds

    def _next(self) -> tuple[str, FrozenTrial] | None:
        try:
            return self._ended.get_nowait()
        except Empty:
            return None


def _missing(session: Session, name: str, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those trials that a study does not hold yet, going by their attributes, which hold their keys."""
    mine = select(models.TrialModel.trial_id).join(models.StudyModel).where(models.StudyModel.study_name == name)
    told = models.TrialUserAttributeModel
    columns = select(told.key, told.value_json, models.TrialModel.state).join(models.TrialModel)
    held = set(session.execute(columns.where(told.trial_id.in_(mine))))
    return [
        one for one in trials if not held & {(key, json.dumps(text), one.state) for key, text in one.user_attrs.items()}
    ]


def _add(session: Session, name: str, trials: Sequence[FrozenTrial]) -> None:
    """Add trials to a study, numbered on, as `optuna.Study.add_trial` does."""
    locked = select(models.StudyModel.study_id).filter_by(study_name=name).with_for_update()
    study = session.execute(locked).scalar_one()
    number = session.execute(select(func.count()).select_from(models.TrialModel).filter_by(study_id=study)).scalar_one()
    for at, trial in enumerate(trials, number):
        session.add(_row(study, at, trial))
    session.flush()


def _row(study: int, number: int, trial: FrozenTrial) -> models.TrialModel:
    """A trial with all that belongs to it."""
    row = models.TrialModel(
        study_id=study,
        number=number,
        state=trial.state,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
    )
    for objective, value in enumerate(trial.values or ()):
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        models.TrialValueModel(trial=row, objective=objective, value=stored, value_type=kind)
    for param, distribution in trial.distributions.items():
        models.TrialParamModel(
            trial=row,
            param_name=param,
            param_value=distribution.to_internal_repr(trial.params[param]),
            distribution_json=distribution_to_json(distribution),
        )
    for step, value in trial.intermediate_values.items():
        seen, sort = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        models.TrialIntermediateValueModel(trial=row, step=step, intermediate_value=seen, intermediate_value_type=sort)
    for model, attributes in (
        (models.TrialUserAttributeModel, trial.user_attrs),
        (models.TrialSystemAttributeModel, trial.system_attrs),
    ):
        for key, text in attributes.items():
            model(trial=row, key=key, value_json=json.dumps(text))
    return row


def _hidden(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string()
    except ArgumentError:  # what is no URL may hold one all the same
        return url.partition(":")[0] + ":..."
