"""A plugin for napari: a reader of medical images with their place, and a widget that registers two layers.

Needs napari, which nothing else here does (``crossmorph[napari]``).
"""
