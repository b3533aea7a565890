"""Web pages that show threads to a person; they change nothing. Needs the extra ``web``.

Everything in a thread is another program's text: templates escape it, Markdown allows no HTML, and no page loads anything
from another host.
"""
