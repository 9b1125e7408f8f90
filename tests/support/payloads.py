"""Payloads: any JSON, for hypothesis, and models whose fields are models."""

from typing import Literal

from hypothesis import strategies as st
from pydantic import BaseModel

payloads = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


class Item(BaseModel):
    sku: str
    amount: int


class Folder(BaseModel):
    folders: "dict[str, Folder]" = {}
    items: list[Item] = []
    kind: Literal["a", "b"] = "a"
