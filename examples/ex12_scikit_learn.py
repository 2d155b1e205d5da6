"""Let scikit-learn's nested searches share one set of slots.

register() tells joblib of the backend "jobserver". In a parallel_config that names it, each model
with n_jobs starts jobs, also a model within a search within a validation. All of them share the
slots. The calls of scikit-learn stay as they are.

Run:  python examples/ex12_scikit_learn.py
"""

from __future__ import annotations

import joblib

import jobserver.joblib


def main() -> None:
    try:
        from sklearn.datasets import make_classification
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import GridSearchCV, cross_validate
    except ImportError:
        print("this example needs scikit-learn")
        return
    jobserver.joblib.register()

    x, y = make_classification(400, 10, n_informative=5, random_state=0)
    forest = RandomForestClassifier(n_estimators=20, n_jobs=2, random_state=0)
    search = GridSearchCV(forest, {"max_depth": [2, 4]}, cv=3, n_jobs=2)

    with joblib.parallel_config("jobserver", n_jobs=2):  # two jobs at once, at all depths together
        scores = cross_validate(search, x, y, cv=3)["test_score"]
    print("the same with one process:", end=" ", flush=True)
    with joblib.parallel_config("sequential"):
        same = cross_validate(search, x, y, cv=3)["test_score"]
    print((scores == same).all())
    assert (scores == same).all()


if __name__ == "__main__":
    main()
