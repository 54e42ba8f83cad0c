"""A task, whose results are kept in the database."""
import os

from celery import Celery

app = Celery("shop", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])


@app.task
def add(a, b):
    return a + b
