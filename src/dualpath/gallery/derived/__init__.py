"""An index in memory that is derived from a store and answers searches in its place.

The store stays the record of the gallery. A derived index is a copy of one version of a table. It
is used only while it equals the table, and may be deleted at any time. See
:mod:`dualpath.gallery.derived.searcher`.
"""
