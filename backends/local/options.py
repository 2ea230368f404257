"""The ``options`` block of a local deployment."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LocalOptions(BaseModel):
    """How it listens, on what it computes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 opens it to others.")
    port: int = Field(0, ge=0, le=65535, description="Port; 0 takes a free one and keeps it.")
    gpus: list[int | str] | None = Field(
        None, description="Devices to use, by number or UUID; none: those with most room."
    )
    engine: Literal["torch", "vllm"] = Field("torch", description="Inference engine.")
    dtype: str = Field("auto", description="Type of the weights; auto is the folder's.")
    api_key: bool | None = Field(
        None, description="Whether a key is needed; none: unless only this machine can connect."
    )
    models: list[str] = Field(
        default_factory=list,
        max_length=31,
        description="Further models behind the same address, each under its own name.",
    )
    idle_unload: str | None = Field(
        None,
        pattern=r"^\d{1,12}[smhd]?$",
        description="Load models when they are asked for, and unload those that nobody has for so "
        "long (10m); none: all stay loaded.",
    )
    drain_seconds: int = Field(
        60, ge=0, le=86400, description="What requests to a replaced revision may still take."
    )
