"""Common part of the scripts that Redis runs, each as one step."""

from typing import Final

__all__ = ["NOW", "OF_KIND"]

OF_KIND: Final = """
local function is_of_kind(key, kind)
    local found = redis.call('TYPE', key)['ok']
    if found == 'none' or found == kind then return true end
    redis.pcall('DEL', key)
    return false
end
"""
"""Beginning of every script: a function that removes a key of another kind than expected."""

NOW: Final = """
local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""
"""Function for milliseconds since the epoch, by the clock of Redis, which all nodes share."""
