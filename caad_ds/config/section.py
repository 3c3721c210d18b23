"""What every section of the configuration is."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the configuration; keys that nothing reads are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def changed(section: Section, keys: tuple[str, ...]) -> list[str]:
    """Those of the keys whose value is not the default; a default is no mistake, a saved config holds them all."""
    return [key for key in keys if getattr(section, key) != type(section).model_fields[key].default]
