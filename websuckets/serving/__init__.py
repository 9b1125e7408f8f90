"""Definition, compilation, start, serving and stop of an app."""
