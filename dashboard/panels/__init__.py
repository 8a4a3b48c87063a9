"""The panels of the page: what each says (model), how it stands there (view) and its plots (figure).

A new panel is a folder here, with `layout` and `PANELS` in its view, and its place in dashboard/page.py. A script that
calls `faultline.panel(name, ...)` draws what it answers.
"""
