"""scikit-learn over the backend for joblib: real work that nests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spans import Recorded, record

joblib = pytest.importorskip("joblib")
pytest.importorskip("sklearn")

from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.datasets import make_classification  # noqa: E402
from sklearn.ensemble import RandomForestClassifier, StackingClassifier  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_validate  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

import jobserver.joblib  # noqa: E402
from jobserver import Jobserver  # noqa: E402

jobserver.joblib.register()

SLOTS = 2


@pytest.fixture
def method() -> str:
    """The only one in use: the backend has a thread."""
    return "forkserver"


@pytest.fixture
def pool(made: Callable[..., Jobserver]) -> Any:
    preload = ["jobserver.joblib", "sklearn.ensemble", "sklearn.model_selection"]
    js = made(SLOTS, max_tasks_per_child=None, preload=preload)
    return lambda: joblib.parallel_config("jobserver", jobserver=js, n_jobs=SLOTS)


class Recorder(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A tree that says when it computes."""

    def __init__(self, log: str | None = None, seed: int = 0) -> None:
        self.log = log
        self.seed = seed

    def fit(self, x: Any, y: Any) -> Recorder:
        if self.log is not None:
            record(self.log)
        self.tree_ = DecisionTreeClassifier(random_state=self.seed, max_depth=4).fit(x, y)
        self.classes_ = self.tree_.classes_
        return self

    def predict(self, x: Any) -> Any:
        return self.tree_.predict(x)

    def predict_proba(self, x: Any) -> Any:
        return self.tree_.predict_proba(x)


@pytest.fixture(scope="module")
def data() -> Any:
    return make_classification(400, 10, n_informative=5, random_state=0)


def search() -> Any:
    forest = RandomForestClassifier(n_estimators=10, n_jobs=2, random_state=0)
    return GridSearchCV(forest, {"max_depth": [2, 4], "max_features": [2, 4]}, cv=3)


def test_a_search_over_forests_has_the_answers_of_a_serial_one(pool: Any, data: Any) -> None:
    x, y = data
    with joblib.parallel_config("sequential"):
        expected = search().fit(x, y)
    with pool():
        found = search().fit(x, y)
    assert found.best_params_ == expected.best_params_
    for score in "mean_test_score", "std_test_score":
        assert (found.cv_results_[score] == expected.cv_results_[score]).all()
    trees = zip(found.best_estimator_.estimators_, expected.best_estimator_.estimators_)
    assert all((one.predict(x) == other.predict(x)).all() for one, other in trees)


def stack(log: str | None) -> Any:
    models = [(f"tree{seed}", Recorder(log, seed)) for seed in range(3)]
    return StackingClassifier(models, LogisticRegression(), cv=3, n_jobs=2)


def test_validated_stacks_have_the_answers_of_serial_ones_and_keep_to_the_slots(
    pool: Any, data: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with joblib.parallel_config("sequential"):
        expected = cross_validate(stack(None), *data, cv=3)["test_score"]
    with pool():
        scores = cross_validate(stack(str(log)), *data, cv=3)["test_score"]
    assert (scores == expected).all()
    recorded = Recorded.in_log(log)
    assert recorded.count == 3 * 3 * (1 + 3)  # each tree as a whole, and for each of three folds
    assert 1 < recorded.most <= SLOTS
