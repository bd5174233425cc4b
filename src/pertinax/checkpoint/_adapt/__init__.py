"""Adapters: the words of the mirrored API translated into those of the engine."""
