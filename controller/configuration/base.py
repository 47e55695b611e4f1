"""What every section of the configuration has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from controller.configuration.mistakes import LocatedErrors, located, unknown_keys

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
ModelName = Annotated[str, Field(pattern=r"^\S+$", max_length=256)]
ArtifactRef = Annotated[str, Field(pattern=r"^[a-z0-9-]+/[A-Za-z0-9._-]+$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """Part of the tree: frozen, no keys but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Report unknown keys with the nearest right one, together with whatever else is wrong in the section."""
        open_ended = cls.model_config.get("extra") == "allow"
        known = [field.alias or name for name, field in cls.model_fields.items()]
        wrong = unknown_keys(data, known) if isinstance(data, Mapping) and not open_ended else []
        if not wrong:
            return handler(data)
        try:
            handler({key: value for key, value in data.items() if key in known})
        except ValidationError as error:
            wrong.extend(located(error))
        raise LocatedErrors(wrong)
