"""Declarations of channels (temporary)."""
import re
from websuckets.history import History
class ChannelName(str):
    channel: "Channel"
class Channel:
    def __init__(self, pattern, *, events=None, history=None, presence=False):
        self.pattern, self.events, self.history, self.presence = pattern, events, history, presence
        self.regex = re.compile(re.sub(r"\\\{(\w+)\\\}", r"([^/]+)", re.escape(pattern)) + r"\Z")
    def __call__(self, **values):
        name = ChannelName(self.pattern.format(**values)); name.channel = self
        return name
    def check_event(self, event): pass
    def event_of(self, frame):
        from websuckets.protocol.messages import ClientEvent
        from pydantic_core import from_json
        c = from_json(frame); 
        for e in self.events or ():
            if e.__event_name__ == c["event"]: return e.model_validate(c["payload"])
        return ClientEvent(c["event"], c["payload"])
class ChannelDeclarations:
    def __init__(self, channels): self.channels = tuple(channels)
    @property
    def have_history(self): return any(c.history for c in self.channels)
    def find(self, name):
        for c in self.channels:
            if c.regex.match(name): return c
        return None
