"""Flower's settings (``celery … flower --conf=config/flowerconfig.py``); each can be changed in the environment too."""

import os

# A process runner says where to listen; ``livethread up`` looks for a free port.
port = int(os.environ.get("PORT", "5555"))
# This machine alone. Flower can stop workers and run tasks: before you open it to others (0.0.0.0), set who may
# enter: a list basic_auth of "name:password", or OAuth by auth_provider (a class of flower.views.auth, such as
# flower.views.auth.GithubLoginHandler), auth (a pattern of e-mail addresses), oauth2_key, oauth2_secret and
# oauth2_redirect_uri. /metrics and /healthcheck stay open in any case; read_only takes the buttons away.
address = os.environ.get("FLOWER_ADDRESS", "127.0.0.1")

# Threads are the history that lasts; Flower's own would be a shelf that a kill can leave unreadable, and would show
# workers and tasks of runs long gone.
persistent = False
# Ordered tasks come by the thousand; each kept one costs about 3 kB here, and time whenever the list is drawn.
max_tasks = 20_000
# Names change with their host and their process: forget those that left.
purge_offline_workers = 300

# kwargs names the thread, its position and its sizes, and can be searched (kwargs:…); args are always empty.
tasks_columns = "name,kwargs,state,received,started,runtime,worker,uuid"
# Exact times: order is what one looks for here.
natural_time = False
