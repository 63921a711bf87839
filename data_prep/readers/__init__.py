"""Readers of label files, one file per form; a dataset's YAML under conf/source names its reader."""
