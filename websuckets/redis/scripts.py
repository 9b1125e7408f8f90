"""Common part of the scripts that Redis runs, each as one step."""

from typing import Final

__all__ = ["OF_KIND"]

OF_KIND: Final = """
local function is_of_kind(key, kind)
    local found = redis.call('TYPE', key)['ok']
    if found == 'none' or found == kind then return true end
    redis.pcall('DEL', key)
    return false
end
"""
"""Beginning of every script: a function that removes a key of another kind than expected."""
