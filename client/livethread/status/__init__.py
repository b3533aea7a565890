"""Whether a deployment is well, and what to do if it is not: `livethread status`, and a page of `livethread browse`.

`findings` holds every sentence, `judge` decides which of them are true, `collector` asks Redis and the home's disk.
Nothing here changes or starts anything.
"""
