"""The private and undocumented attributes of Keras that the package uses, each behind one named function.

Each function says why no public attribute does. `tests/core/test_keras_internals.py` checks it on every supported
version of Keras.
"""
