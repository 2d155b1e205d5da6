"""x"""
from typing import Any
def svg(run: Any) -> str:
    return ""
