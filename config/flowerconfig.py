"""Flower's settings (``celery … flower --conf=config/flowerconfig.py``); each can be changed in the environment too."""

import os

# A process runner sets PORT; ``livethread up`` sets it to a free one.
port = int(os.environ.get("PORT", "5555"))
# Only this machine. Flower can stop workers and run tasks, so require a login before you open it to others (0.0.0.0):
# basic_auth is a list of "name:password"; OAuth needs auth_provider (a class of flower.views.auth, such as
# flower.views.auth.GithubLoginHandler), auth (a pattern of e-mail addresses), oauth2_key, oauth2_secret and
# oauth2_redirect_uri. /metrics and /healthcheck are open even then; read_only removes the buttons.
address = os.environ.get("FLOWER_ADDRESS", "127.0.0.1")

# Threads are the lasting history. Flower's own file can become unreadable after a kill, and would show workers and
# tasks of old runs.
persistent = False
# There are thousands of ordered tasks. Each one that is kept costs about 3 kB, and time when the list is drawn.
max_tasks = 20_000
# Worker names change with host and process, so forget those that left.
purge_offline_workers = 300

# kwargs names the thread, its position and its sizes, and can be searched (kwargs:…); args are always empty.
tasks_columns = "name,kwargs,state,received,started,runtime,worker,uuid"
# Exact times, because order matters here.
natural_time = False
