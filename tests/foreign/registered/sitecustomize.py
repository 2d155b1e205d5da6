"""For the scripts that joblib's tests run: on PYTHONPATH, it registers our backend with joblib."""

import jobserver.joblib

jobserver.joblib.register()
