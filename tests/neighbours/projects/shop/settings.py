"""Django's, as `startproject` and a database make them."""

import json
import os

_where = json.loads(os.environ["DATABASE"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _where["dbname"],
        "HOST": _where["host"],
        "PORT": _where["port"],
        "USER": _where["user"],
        "OPTIONS": json.loads(os.environ.get("OPTIONS", "{}")),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "shop"]
SECRET_KEY = "of a test"
USE_TZ = True
