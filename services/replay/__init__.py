"""`lamppost replay`: recorded files as real RTSP cameras, to load-test a Lamppost with.

Composition beside the services, as `services/check`: it starts processes of its own that serve N
cameras over RTSP (`server`, `stream`, `packets`), lets befall them what a scenario says
(`scenario`), registers them at an api, and reports what was lost, late and used (`run`, `outcome`).
It knows the services only as any client does: by RTSP, HTTP and their processes' costs. No picture
is decoded or encoded. docs/guide/load-testing.md.
"""
