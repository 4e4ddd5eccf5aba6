"""The directory on disk: immutable Arrow files and one manifest a version.

`FORMAT.md` beside this file describes every byte.
"""
