"""Flower's options (``celery … flower --conf=config/flowerconfig.py``).

An option of the command line counts before this file, and this file before ``FLOWER_<OPTION>``. So a variable changes
only what this file does not set, besides the port and the address. A name that is not an option of Flower is refused.
"""

import os

from tornado.options import options

from livethread_worker import flower_pages

# A process runner sets PORT; `livethread up` sets it to a free one.
port = int(os.environ.get("PORT") or options.port)
# Only this machine. Flower can stop workers and run tasks, so anywhere else (FLOWER_ADDRESS=0.0.0.0) it asks for a login:
# that of FLOWER_BASIC_AUTH=name:password, or else one that it prints. OAuth needs auth_provider (a class of
# flower.views.auth, such as flower.views.auth.GithubLoginHandler), auth (a pattern of e-mail addresses), oauth2_key,
# oauth2_secret and oauth2_redirect_uri. /metrics and /healthcheck stay open; read_only removes the buttons.
address = options.address or "127.0.0.1"

# Threads are the lasting history. Flower's own file can become unreadable after a kill, and would show workers and
# tasks of old runs.
persistent = False
# There are thousands of ordered tasks. Flower starts with 76 MB; each task that it keeps costs 5.6 kB, and time when the
# list is drawn.
max_tasks = 20_000
# Worker names change with host and process, so forget those that left.
purge_offline_workers = 300

# kwargs shows sizes, position and thread, and can be searched as the worker sent it (kwargs:thread=<id>); result says why
# a task failed; args are always empty, and the runtime is that of a batch.
tasks_columns = "name,kwargs,state,result,received,worker,uuid"
format_task = flower_pages.format_task
# Exact times, because order matters here.
natural_time = False

flower_pages.complete(globals())
