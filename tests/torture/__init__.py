"""`make torture`: kill -9 at random moments under real cameras, and judge what was lost.

`world.py` runs the program as its user would and kills it; `judge.py` compares the camera's own log
of what it sent with what stands in the store.
"""
