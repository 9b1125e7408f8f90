"""Tokens."""

import copy
import json
import pickle

from pydantic import BaseModel
from pydantic_core import to_json

from websuckets import ClientEvent
from websuckets.security import Token


def test_a_token_is_128_random_bits() -> None:
    """A token has 32 hex digits, and is never generated twice."""
    tokens = {Token.generate() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(len(token) == 32 and int(token, 16) < 2**128 for token in tokens)


def test_a_token_is_a_string_that_hides_itself() -> None:
    """A token is compared and sent as its text; its repr is safe to log."""
    token = Token("canary")
    assert token == "canary"
    assert repr(token) == repr([token])[1:-1] == "Token(...)"
    assert to_json(token) == b'"canary"'
    assert json.loads(ClientEvent("new token", token))["payload"] == "canary"
    for other in (copy.deepcopy(token), pickle.loads(pickle.dumps(token))):
        assert (type(other), other) == (Token, token)

    class Model(BaseModel):
        token: str

    assert Model(token=token).model_dump_json() == '{"token":"canary"}'
