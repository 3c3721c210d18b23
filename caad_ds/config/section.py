"""The base class of configuration sections."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the configuration; keys that nothing reads are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def changed(section: Section, keys: tuple[str, ...]) -> list[str]:
    """Return the keys with non-default values; defaults are allowed, since a saved config has all keys."""
    return [key for key in keys if getattr(section, key) != type(section).model_fields[key].default]
