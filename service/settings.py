"""Every knob, once. Read from `HEATLENS_...` environment variables; command-line options win."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

EMBEDDED_MODELS = ("efficientnet-lite0", "lesion-count")


class Settings(BaseSettings):
    """What an operator may set. Units are in the names."""

    model_config = SettingsConfigDict(env_prefix="HEATLENS_", extra="forbid", frozen=True)

    host: Annotated[str, Field(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="TCP port; 0 takes a free one.")] = 8000
    model: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(
            description="Models to serve, `NAME[=WEIGHTS]`, separated by spaces or commas; the first one "
            "is the default. WEIGHTS: `default`, `random` or a file. Empty: the embedded ones."
        ),
    ] = ()
    catalog: Annotated[Path | None, Field(description="TOML file that describes further models.")] = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="`auto`, `cpu` or `cuda[:N]`.")] = (
        "auto"
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"

    worker_threads: Annotated[int, Field(ge=1, le=256, description="Requests worked on at a time.")] = 16
    max_batch_rows: Annotated[int, Field(ge=1, le=4096, description="Rows of one forward pass.")] = 16
    default_timeout_s: Annotated[float, Field(gt=0, description="Deadline of a request without one.")] = 300.0
    max_image_bytes: Annotated[int, Field(ge=1024, description="Largest encoded picture.")] = 16 * 2**20
    max_image_pixels: Annotated[int, Field(ge=1, description="Largest decoded picture.")] = 25_000_000
    max_targets: Annotated[int, Field(ge=1, description="Targets of one request.")] = 16
    readiness_timeout_s: Annotated[float, Field(gt=0, description="Patience of /health/ready.")] = 5.0

    @field_validator("model", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @property
    def max_body_bytes(self) -> int:
        """Largest request body: a picture in base64, and room for the rest of the request."""
        return self.max_image_bytes * 4 // 3 + 256 * 1024
